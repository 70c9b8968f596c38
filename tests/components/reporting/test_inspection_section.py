"""The analysis on the page: positions against the numbers, and a reason in the place of every part that is missing."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.inspection.inspection_files import write_analysis
from components.pictures import PictureLimits
from components.reporting.inspection_section import (
    PARTS,
    analysis_content,
    gap_chart,
    gap_rows,
    group_name,
    kind_charts,
    norm_charts,
    points,
    prefix_charts,
    read_analysis,
    read_seen,
)
from components.reporting.page import render
from tests.components.reporting.analyses import analysis, without
from tests.components.reporting.pages import PageReader
from tests.components.reporting.test_page import content

LIMITS = PictureLimits(
    formats=("PNG",), max_pixels=10_000, max_aspect_ratio=4.0, max_side=200, min_side=8
)
SEEN = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (0, 0, 0))]


def page_of(**changes: object) -> PageReader:
    return PageReader(
        render(content() | {"analysis": analysis_content(analysis() | changes, SEEN, 64)})
    )


def test_what_the_stage_writes_is_what_is_read(tmp_path: Path) -> None:
    write_analysis(tmp_path / "analysis", analysis(), SEEN)
    assert read_analysis(tmp_path / "analysis") == json.loads(json.dumps(analysis()))
    for image, expected in zip(read_seen(tmp_path / "analysis", LIMITS), SEEN, strict=True):
        np.testing.assert_array_equal(image, expected)


def test_norms_have_a_curve_per_adapter_and_a_chart_per_kind() -> None:
    norms = analysis()["norms"]["found"]
    (chart,) = norm_charts(norms)
    assert [(line.name, line.last) for line in chart.lines] == [
        ("compression", "3"),
        ("generation", "2"),
    ]
    kinds = kind_charts(norms)
    assert [(chart.title, len(chart.lines)) for chart in kinds] == [("q_proj", 2), ("o_proj", 1)]


def test_prefixes_rise_with_their_scores_and_show_intervals() -> None:
    rows = analysis()["prefixes"]["found"]
    rows[0]["scores"] = {
        name: found | {"score": 0.25, "low": 0.2} for name, found in rows[0]["scores"].items()
    }
    charts = prefix_charts(rows)
    assert [chart.title for chart in charts] == ["CIDEr", "BLEU-4", "ROUGE-L"]
    one, both = charts[0].marks
    assert one.x < both.x
    assert one.y > both.y  # up is better
    assert one.low > one.y > one.high
    assert [tick.text for tick in charts[0].x_ticks] == ["1", "2"]
    assert prefix_charts([row | {"scores": {}} for row in rows]) == []


def test_gaps_lie_on_their_side_of_zero() -> None:
    masks = analysis()["masks"]["found"]
    chart = gap_chart(masks)
    first, second = chart.gaps
    assert first.low < first.x < first.high < chart.zero < second.x
    assert second.low < chart.zero
    assert (second.x - chart.zero) * 10 == pytest.approx(chart.zero - first.x, abs=2)
    assert [row[0] for row in gap_rows(masks)] == ["token 1", "token 2"]
    assert gap_rows(masks)[0][2:] == ("−10.0", "−15.0 … −5.0")
    assert gap_rows(masks)[1][2] == "+1.0"


def test_groups_are_counted_from_one() -> None:
    assert group_name([0]) == "token 1"
    assert group_name([4, 5, 6, 7]) == "tokens 5–8"
    assert points(-0.052) == "−5.2"


def test_every_part_stands_on_the_page() -> None:
    page = page_of()
    text = " ".join(page.text.split())
    for shown in (
        "All linear layers",
        "Share on the picture",
        "query 2",
        "(end)",
        "train.nested_budgets",
        "without",
    ):
        assert shown in text
    assert "All 2 tokens: 80.0% of 20 questions" in text
    assert "ot of this compressor" not in text
    places = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    assert {e.attributes["href"] for e in page.elements if e.tag == "use"} == {"#seen-0", "#seen-1"}
    assert {"seen-0", "seen-1", "inside"} <= places


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_says_why_and_the_others_stay(name: str) -> None:
    text = " ".join(page_of(**{name: without(name, text="it is <b>other</b>")[name]}).text.split())
    assert text.count("ot of this compressor") == 1
    assert "it is <b>other</b>." in text
    for other, shown in (
        ("norms", "All linear layers"),
        ("prefixes", "nested_budgets"),
        ("masks", "All 2 tokens"),
    ):
        assert (shown in text) == (name != other)


def test_a_method_with_nothing_of_this_still_has_a_page() -> None:
    absent = analysis_content(without(*PARTS), [], 64)
    text = " ".join(PageReader(render(content() | {"analysis": absent})).text.split())
    assert text.count("it has none.") == len(PARTS)

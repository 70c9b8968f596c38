"""The inspection on the page: places against numbers, and a reason for every missing part."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.inspection.inspection_files import write_analysis
from components.pictures import PictureLimits
from components.reporting.inspection_section import (
    PARTS,
    gap_chart,
    gap_rows,
    group_name,
    inspection_content,
    kind_charts,
    norm_chart,
    points,
    prefix_charts,
    read_inspection,
    read_seen,
)
from components.reporting.page import render
from tests.components.reporting.analyses import analysis, without
from tests.components.reporting.drawings import read_drawing
from tests.components.reporting.pages import PageReader
from tests.components.reporting.test_page import content

LIMITS = PictureLimits(
    formats=("PNG",), max_pixels=10_000, max_aspect_ratio=4.0, max_side=200, min_side=8
)
SEEN = [Image.new("RGB", (8, 8), (200, 30, 30)), Image.new("RGB", (8, 8), (0, 0, 0))]


def page_of(**changes: object) -> PageReader:
    return PageReader(
        render(content() | {"inspection": inspection_content(analysis() | changes, SEEN, 64)})
    )


def test_what_the_stage_writes_is_what_is_read(tmp_path: Path) -> None:
    write_analysis(tmp_path / "analysis", analysis(), SEEN)
    assert read_inspection(tmp_path / "analysis") == json.loads(json.dumps(analysis()))
    for image, expected in zip(read_seen(tmp_path / "analysis", LIMITS), SEEN, strict=True):
        np.testing.assert_array_equal(image, expected)


def test_norms_have_a_curve_per_adapter_and_a_chart_per_kind() -> None:
    norms = analysis()["norms"]["found"]
    chart = norm_chart(norms)
    assert (chart.lines, chart.note) == (("compression", "generation"), "3 · 2")
    assert "3: compression 3, generation 2" in read_drawing(chart.svg).tips
    kinds = {chart.title: chart.lines for chart in kind_charts(norms)}
    assert kinds == {"q_proj": ("compression", "generation"), "o_proj": ()}


def test_prefixes_rise_with_their_scores_and_show_intervals() -> None:
    rows = analysis()["prefixes"]["found"]
    rows[0]["scores"] = {
        name: found | {"score": 0.25, "low": 0.2} for name, found in rows[0]["scores"].items()
    }
    charts = prefix_charts(rows)
    assert [chart.title for chart in charts] == ["CIDEr", "BLEU-4", "ROUGE-L"]
    drawing = read_drawing(charts[0].svg)
    one, both = drawing.marks["var(--compressed)"]
    assert one[0] < both[0]
    assert one[1] > both[1]  # up is better
    low, high = drawing.lines["var(--compressed)"][0]
    assert low[1] > one[1] > high[1]
    assert {"1", "2", "first summary tokens"} <= drawing.texts.keys()
    assert "0.250 [0.200–0.600]" in drawing.tips
    assert prefix_charts([row | {"scores": {}} for row in rows]) == []


def test_gaps_lie_on_their_side_of_zero() -> None:
    masks = analysis()["masks"]["found"]
    drawing = read_drawing(gap_chart(masks).svg)
    (((zero, _), _),) = drawing.lines["var(--soft)"]
    first, second = (x for x, _ in drawing.marks["var(--compressed)"])
    ((low, _), (high, _)), ((other_low, _), _) = drawing.lines["var(--compressed)"]
    assert low < first < high < zero < second
    assert other_low < zero
    assert (second - zero) * 10 == pytest.approx(zero - first, abs=0.2)
    assert {"token 1", "token 2", "0"} <= drawing.texts.keys()
    assert list(drawing.tips) == ["−10.0 points: 70.0%", "+1.0 points: 81.0%"]


def test_gaps_are_rows_in_points() -> None:
    rows = gap_rows(analysis()["masks"]["found"])
    assert [row[0] for row in rows] == ["token 1", "token 2"]
    assert rows[0][2:] == ("−10.0", "−15.0 … −5.0")
    assert rows[1][2] == "+1.0"


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
    absent = inspection_content(without(*PARTS), [], 64)
    text = " ".join(PageReader(render(content() | {"inspection": absent})).text.split())
    assert text.count("it has none.") == len(PARTS)

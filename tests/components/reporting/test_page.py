"""The page shows what it is given, and does nothing that it is told to."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from PIL import Image

from components.reporting.content import Examples, page_content
from components.reporting.examples_section import Query, draw_descriptions, found, outcome_boxes
from components.reporting.inputs import Inputs
from components.reporting.inspection_section import inspection_content
from components.reporting.metric_tables import SYSTEMS
from components.reporting.page import is_page, readable, render, write_page
from components.reporting.seeds_section import seed_rows
from components.reporting.thumbnails import thumbnail
from tests.components.reporting.analyses import analysis
from tests.components.reporting.pages import PageReader
from tests.components.reporting.results import ACCURACY, answers, captions, metrics

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></style></svg><iframe src=https://example.org>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
    "javascript:alert(1)",
    "]]><!--",
]
TAGS = """
a article b bdi blockquote body circle code dd defs details div dl dt em figcaption figure footer
g h1 h2 h3 h4 head header html image img li main mark meta nav ol p path q rect section small span
strong style summary svg table tbody td text tfoot th thead title tr ul use
"""


def content(evil: str = "harmless", **changes: Any) -> dict[str, Any]:
    """A page in which everything that others wrote is `evil`."""
    return build_content(evil) | changes


@cache
def build_content(evil: str) -> dict[str, Any]:
    """Draw once what many tests show."""
    rows = answers(
        "q1",
        {"compressed": True, "uncompressed": True},
        image_id=evil,
        question=evil,
        references=[evil],
    )
    rows += [row | {"answer": evil} for row in answers("q2", {"blind": True}, kind=evil)]
    described = captions(evil, references=[evil] * 5, caption=evil)
    inputs = Inputs(
        metrics=metrics(),
        codecs=[
            {
                "codec": evil,
                "bytes_per_picture": size,
                "short_answer": 0.5,
                "image_to_text": 0.5,
                "text_to_image": 0.5,
            }
            for size in (64, 128)
        ],
        methods=[],
        seeds={evil: [0.5, 0.25, 0.75]},
        answers=rows,
        captions=described,
        sources={evil: {"rows_in": 2, "rows_kept": 1, "rejects": {evil: 1}, "repaired": {evil: 1}}},
        rejects=[{"sample_id": evil, "source": evil, "reason": evil, "detail": evil}],
        expectations={
            evil: {
                "results": [
                    {
                        "success": True,
                        "expectation_config": {
                            "type": evil,
                            "kwargs": {"column": evil},
                            "description": evil,
                        },
                        "result": {},
                    }
                ]
            }
        },
        compressor={"base_model": evil, "compressor": {"prompt": evil}, "versions": {evil: evil}},
        training={
            "train/autoregressive_loss": [(1.0, 2.0), (2.0, 1.0)],
            "validation/score": [(2.0, 0.5), (4.0, 0.5)],
        },
        base={evil: [(1.0, 0.5)]},
    )
    store = {
        "dim": 8,
        "codec": "float16",
        "schema_version": 1,
        "model": {"prompt": evil},
        "preprocessing": {evil: evil},
        "compute": {},
        "libraries": {},
    }
    manifest = {
        "provenance": store,
        "rows_in": 3,
        "rows_kept": 2,
        "rows_rejected": {evil: 1},
        "files": [{"name": evil, "sha256": evil}],
    }
    shown_as_read = Image.new("RGB", (4, 4))
    shown = thumbnail(shown_as_read, 4)
    searched = [
        found(Query(evil, None), [(evil, 0.5)], 5),
        found(Query(evil, evil), [("other", 0.5), (evil, 0.25)], 1),
    ]
    examples = Examples(
        boxes=outcome_boxes(rows, 0, 5),
        descriptions=draw_descriptions(described, 0, 5),
        searched=searched,
        pictures={evil: shown},
        strips={evil: shown},
    )
    page = page_content(inputs, manifest, examples, file_bytes=1000.0, seed=0)
    inside = inspection_content(analysis(evil), [shown_as_read] * 2, 64)
    return page | {"inspection": inside}


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_is_shown_and_not_obeyed(evil: str) -> None:
    page = PageReader(render(content(evil)))
    assert {element.tag for element in page.elements} <= set(TAGS.split())
    assert page.text.count(evil) > 20  # names of kinds lose their underscores only
    for element in page.elements:
        assert not [
            name
            for name in element.attributes
            if name.startswith("on") or name in ("style", "srcdoc")
        ]
        for name in ("src", "href", "xlink:href", "action"):
            assert re.match(
                r"#|data:image/png;base64,[\w+/=]+$|$", element.attributes.get(name, "")
            )


def test_policy_forbids_everything_but_inlined_pictures_and_the_own_style() -> None:
    html = render(content())
    page = PageReader(html)
    (policy,) = [e.attributes["content"] for e in page.elements if "http-equiv" in e.attributes]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_policy_stands_before_anything_that_it_rules() -> None:
    tags = [element.tag for element in PageReader(render(content())).elements]
    assert tags.index("meta") < min(tags.index(tag) for tag in ("style", "img", "svg"))


def test_nothing_points_outside_of_the_page() -> None:
    html = render(content())
    assert not re.search(
        r"https?:|//|@import|url\((?!#)", re.sub(r"(base64,|sha256-)[\w+/=]+", "", html)
    )
    names = {
        element.attributes["id"]
        for element in PageReader(html).elements
        if "id" in element.attributes
    }
    links = [e.attributes["href"] for e in PageReader(html).elements if e.tag == "a"]
    assert {link.removeprefix("#") for link in links} <= names | {
        "uncompressed",
        "compressed",
        "neither",
        "both",
    }


def test_page_needs_nothing_that_is_optional() -> None:
    bare = content()
    bare |= {
        "caption_scores": [],
        "descriptions": [],
        "compositions": [],
        "searched": [],
        "strips": {},
        "pictures": {},
    }
    bare |= {
        "base_charts": [],
        "training_charts": [],
        "best_step": None,
        "rejected": [],
        "repaired": [],
        "seed_rows": [],
    }
    text = PageReader(render(bare)).text
    assert "Three seeds" not in text
    assert "picture not available" in text
    assert "Word for word" not in text


def test_missing_content_is_an_error() -> None:
    incomplete = content()
    del incomplete["headline"]
    with pytest.raises(UndefinedError, match="headline"):
        render(incomplete)


def test_headline_and_boxes_stand_on_the_page() -> None:
    text = " ".join(PageReader(render(content())).text.split())
    assert "4 vectors in the place of 36" in text
    assert "88.9%of the accuracy of 36 tokens, from 4" in text  # 0.6 of 0.675
    assert "Both right 1 of 1" in text
    assert "its own picture came as number 2 of 2" in text
    assert "The weights are those of step 2," in text  # the first of equal scores


def test_seeds_stand_on_the_page_with_what_the_base_has_and_what_is_kept() -> None:
    seeds = {"words": [0.5, 0.25, 0.75], "base_words": [1.0, 1.0, 1.0], "cider": [3.0, 2.0, 2.5]}
    page = PageReader(render(content(seed_rows=seed_rows(seeds))))
    text = " ".join(page.text.split())
    assert "Three seeds The default training with 3 seeds, from results/seeds.json." in text
    assert "words0.5000.2500.7501.00050.0%25.0% CIDEr2.5002.0003.000––– The base model" in text


def test_answers_of_nobody_are_told_from_empty_ones() -> None:
    rows = [row | {"answer": None} for row in answers("q", {})] + [
        row | {"answer": " "} for row in answers("r", {})
    ]
    page = PageReader(render(content(boxes=outcome_boxes(rows, 0, 5))))
    assert page.text.count("no answer") == 5
    assert sum(element.attributes.get("class") == "none" for element in page.elements) == 10


def test_the_hard_subset_has_a_table_or_the_reason_that_it_has_none() -> None:
    title = "On the questions that a downsampled picture gets wrong"
    page = PageReader(render(content()))
    assert "The same questions to 5 systems" in page.text
    assert "4 tokens of a smaller picture" in page.text
    table = page.text.split(title)[1].split("Accuracy against tokens")[0]
    assert str(round(100 * ACCURACY["compressed"] / 3, 1)) in table

    # nothing is hard, or nobody was asked
    text = PageReader(render(content(hard_scores=[]))).text
    assert "the downsampled picture gets every question right" in text
    names = [system for system in SYSTEMS if system != "downsampled"]
    text = PageReader(render(content(systems=names, hard_scores=[]))).text
    assert "evaluate.references has no downsampled" in text
    assert "The same questions to 4 systems" in text


def test_unusable_pictures_are_reported() -> None:
    text = " ".join(
        PageReader(
            render(content(missing={"blind": {"questions": 7, "captions": 1, "pairs": 2}}))
        ).text.split()
    )
    assert "no picture: 7 questions, 1 captions, 2 pairs" in text


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("user\u202etxt.exe", "user\\u202etxt.exe"),
        ("a\x00b\x1b[31m", "a\\x00b\\x1b[31m"),
        ("a\ud83db", "a\\ud83db"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("line\nline\ttab", "line\nline\ttab"),
        ("مرحبا 你好 é 👩\u200d👧", "مرحبا 你好 é 👩\u200d👧"),
    ],
)
def test_invisible_characters_are_spelled_out_and_all_writing_survives(
    text: str, wanted: str
) -> None:
    assert readable(text) == wanted


def test_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", render(content("a\ud83d")))
    assert "a\\ud83d" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, True),
        ("<!doctype html>\n<title>fwd2bot, a thesis</title>", False),
        ("My thesis", False),
        ("", False),
    ],
)
def test_a_page_is_told_from_other_files(tmp_path: Path, text: str | None, wanted: bool) -> None:
    write_page(tmp_path / "page.html", render(content("a")) if text is None else text)
    assert is_page(tmp_path / "page.html") is wanted

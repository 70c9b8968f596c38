"""Figures become elements that fit the policy and the style sheet of the page, every time."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from components.reporting import metric_tables as tables
from components.reporting.inline_svg import (
    COLOURS,
    STYLE_SHEET,
    add_point_tip,
    inline_svg,
    new_axes,
    page_style,
)
from tests.components.reporting.drawings import read_drawing

ROOT = Path(__file__).parents[3]
EVIL = "</title><script>alert(1)</script> & $x^2$ \u202e\x00 \ud83d"
DRAW = "from tests.components.reporting.test_inline_svg import draw; print(draw('a'))"


@page_style
def draw(text: str) -> str:
    axes = new_axes(320, 190)
    axes.plot([0, 10], [0, 1], color=COLOURS["compressed"])
    axes.plot([5], [0.5], "D", color=COLOURS["second"])
    axes.set_ylim(0, 1)
    add_point_tip(axes, 5, 0.5, text)
    return inline_svg(axes, text)


def test_marks_stand_where_the_numbers_say() -> None:
    drawing = read_drawing(draw("half"))
    ((start, end),) = drawing.lines["var(--compressed)"]
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    assert drawing.marks["var(--second)"] == [pytest.approx(middle, abs=0.02)]
    assert drawing.tips == {"half": pytest.approx(middle, abs=0.02)}
    assert start[1] - end[1] == pytest.approx(190 - 12 - 24, abs=0.02)


def test_styles_are_attributes_and_nothing_has_an_id_or_a_reference() -> None:
    root = ElementTree.fromstring(draw("tip"))
    names = {name for element in root.iter() for name in element.attrib}
    assert not names & {"style", "class", "id", "href", "clip-path", "font-family"}
    assert {element.tag for element in root.iter()} <= {"svg", "path", "text", "title"}
    colours = {value for element in root.iter() for value in element.attrib.values()}
    assert not [value for value in colours if value.startswith("#")]


def test_hostile_text_stays_text() -> None:
    root = ElementTree.fromstring(draw(EVIL))
    shown = EVIL.replace("\u202e\x00 \ud83d", "\\u202e\\x00 \\ud83d")
    assert root.get("aria-label") == shown
    assert [title.text for title in root.iter("title")] == [shown]


def test_settings_of_the_user_change_nothing() -> None:
    wanted = draw("a")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert draw("a") == wanted


def test_another_process_draws_the_same_bytes() -> None:
    command = [sys.executable, "-c", DRAW]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout == draw("a") + "\n"


def test_colours_are_told_apart_and_have_dark_ones() -> None:
    assert {*tables.SYSTEMS, "second", "ink", "soft", "faint", "card"} <= COLOURS.keys()
    assert len(set(COLOURS.values())) == len(COLOURS)
    dark = set(re.findall(r"--(\w+): #", STYLE_SHEET.split("@media")[1]))
    assert dark == COLOURS.keys()


def test_only_the_report_imports_matplotlib() -> None:
    for folder in ("components", "flows"):
        for path in (ROOT / folder).rglob("*.py"):
            is_of_the_report = path.parent.name == "reporting"
            assert is_of_the_report or "matplotlib" not in path.read_text(encoding="utf-8"), path

"""Matplotlib figures as inline SVG, in the colours, the fonts and under the policy of the page.

The page forbids inline styles and has a dark scheme: styles become attributes, and colours become
variables of the style sheet. Nothing that is drawn has an id, so charts cannot collide.
"""

import io
import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from components.reporting.page import build_environment, readable

STYLE_SHEET = build_environment().get_template("style.css.jinja").render()
# name of a variable -> its colour in the light scheme, which comes first
COLOURS = dict(re.findall(r"--(\w+): (#\w{6});", STYLE_SHEET.split("@media")[0]))
VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
STYLE = {
    "figure.dpi": 72,  # as SVG has: places in a figure are units of the drawing
    "svg.fonttype": "none",
    "svg.hashsalt": "fwd2bot",
    "font.family": "DejaVu Sans",  # comes with matplotlib: layouts are the same everywhere
    "font.size": 11,
    "text.parse_math": False,
    "text.color": COLOURS["soft"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.edgecolor": COLOURS["line"],
    "axes.linewidth": 1,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 1,
    "lines.linewidth": 2,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 7,
    "ytick.major.pad": 6,
}
# a decorator: everything drawn inside has the look of the page, whatever a matplotlibrc says
page_style = style.context(["default", STYLE])

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
ATTRIBUTES = re.compile(r"(fill|stroke|opacity|text-anchor|font-size|font-weight)")
DECIMALS = re.compile(r"-?\d+\.\d{2,}")
TIP = "tip: "
TOP_LAYER = 10  # above all that is drawn


def new_axes(
    width: float, height: float, left: float = 40, bottom: float = 24, right: float = 14
) -> Axes:
    """Return empty axes; sizes and margins in units of the drawing, which are points of text."""
    top = 12
    figure = Figure(figsize=(width / 72, height / 72))
    inner_width, inner_height = width - left - right, height - bottom - top
    frame = (left / width, bottom / height, inner_width / width, inner_height / height)
    return figure.add_axes(frame)


def add_tip(artist: Artist, text: str) -> None:
    """Show `text` while the pointer is over an artist, which becomes invisible."""
    artist.set_gid(TIP + readable(text))
    artist.set_alpha(0)
    artist.set_zorder(TOP_LAYER)


def add_point_tip(axes: Axes, x: float, y: float, text: str) -> None:
    """Show `text` while the pointer is near a point."""
    (area,) = axes.plot(x, y, "o", markersize=20, color=COLOURS["card"])
    add_tip(area, text)


def inline_svg(axes: Axes, label: str) -> Markup:
    """Return the figure of the axes as an element of the page; `label` is for screen readers."""
    buffer, figure = io.BytesIO(), axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())

    # matplotlib draws a marker once and refers to it by id
    shapes = {}
    for path in root.iter(f"{SVG}path"):
        shapes[f"#{path.get('id')}"] = path.get("d", "")

    view_box = root.get("viewBox", "")
    drawing = Element("svg", {"viewBox": view_box, "role": "img", "aria-label": readable(label)})
    for element, tip in _visible(root):
        drawing.append(_plain_element(element, tip, shapes))
    return Markup(ElementTree.tostring(drawing, encoding="unicode"))


def _visible(group: Element, tip: str = "") -> Iterator[tuple[Element, str]]:
    """Yield the elements that are drawn, in order, each with the tip of its group."""
    for element in group:
        name = element.tag.removeprefix(SVG)
        if name == "g":
            own = element.get("id", "")
            yield from _visible(element, own.removeprefix(TIP) if own.startswith(TIP) else tip)
        elif name in ("path", "use", "text"):
            yield element, tip


def _plain_element(element: Element, tip: str, shapes: dict[str, str]) -> Element:
    """Return a copy whose style is in attributes, without ids and references."""
    attributes = {}
    for declaration in element.get("style", "").split("; "):
        name, _, value = declaration.partition(": ")
        if ATTRIBUTES.match(name):
            attributes[name] = VARIABLES.get(value, value)

    # one kind of element for texts, one for everything else
    x, y = _rounded(element.get("x", "")), _rounded(element.get("y", ""))
    if element.tag == f"{SVG}text":
        plain = Element("text", attributes | {"x": x, "y": y})
        plain.text = element.text
    elif element.tag == f"{SVG}use":
        place = {"d": _rounded(shapes[element.get(LINK, "")]), "transform": f"translate({x} {y})"}
        plain = Element("path", attributes | place)
    else:
        plain = Element("path", attributes | {"d": _rounded(element.get("d", ""))})

    if tip:
        ElementTree.SubElement(plain, "title").text = tip
    return plain


def _rounded(coordinates: str) -> str:
    """Return coordinates with two decimals at most, in one line."""
    short = DECIMALS.sub(lambda number: f"{float(number[0]):.2f}", coordinates)
    return " ".join(short.split())

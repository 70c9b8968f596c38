"""Charts read back from their SVG: places of tips, of texts, and the points of lines."""

import re
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

NUMBER = re.compile(r"-?[\d.]+")
Place = tuple[float, float]


class Drawing(NamedTuple):
    tips: dict[str, Place]  # text -> place, or upper left corner of a strip
    texts: dict[str, Place]
    lines: dict[str, list[list[Place]]]  # colour -> paths that are drawn and not filled
    marks: dict[str, list[Place]]  # colour -> places of filled marks
    widths: dict[str, list[float]]  # colour -> widths of filled areas


def numbers(text: str) -> list[float]:
    return [float(found) for found in NUMBER.findall(text)]


def read_drawing(svg: Markup) -> Drawing:
    drawing = Drawing({}, {}, {}, {}, {})
    for element in ElementTree.fromstring(svg):
        title = element.findtext("title")
        place = numbers(element.get("transform", ""))
        coordinates = numbers(element.get("d", ""))
        path = list(zip(coordinates[::2], coordinates[1::2], strict=True))
        fill, stroke = element.get("fill", "none"), element.get("stroke", "none")
        if title is not None:
            corner = tuple(place) or tuple(min(axis) for axis in zip(*path, strict=True))
            drawing.tips[title] = corner
        elif element.tag == "text":
            where = float(element.attrib["x"]), float(element.attrib["y"])
            drawing.texts[element.text or ""] = where
        elif place:
            drawing.marks.setdefault(fill, []).append(tuple(place))
        elif fill == "none":
            drawing.lines.setdefault(stroke, []).append(path)
        else:
            xs = [x for x, _ in path]
            drawing.widths.setdefault(fill, []).append(max(xs) - min(xs))
    return drawing

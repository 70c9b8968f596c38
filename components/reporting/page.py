"""The page: templates to one HTML file that loads nothing and runs nothing.

What is shown comes from data and models that nobody vouches for, so every value is escaped,
characters that hide or reorder text are spelled out, and the page's own policy forbids scripts and
all loading, whatever slipped through.
"""

import base64
import hashlib
import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from components.reporting import wording

POLICY = (
    "default-src 'none'; img-src data:; style-src '{style}'; base-uri 'none'; form-action 'none'"
)
# Categories of characters without a shape of their own: controls, format, surrogates, private use,
# unassigned.
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn")
FILTERS = (
    "count",
    "data_size",
    "in_percent",
    "interval",
    "number",
    "operations",
    "percent",
    "plain",
    "score",
    "short",
)
TITLE, HEAD = b"\n<title>fwd2bot: ", 4096  # among the first so many bytes of a page
# the last two join and part letters of many scripts, and emoji
SHOWN_AS_THEY_ARE = "\n\t\u200c\u200d"


def render(content: Mapping[str, Any], template: str = "page") -> str:
    """Return the page, or the short one. Raises jinja2.UndefinedError for missing content."""
    templates = build_environment()

    # the policy lets in the style of the page by its hash, and no other
    style = Markup(templates.get_template("style.css.jinja").render())
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = POLICY.format(style=f"sha256-{digest}")

    return templates.get_template(f"{template}.html.jinja").render(
        content, style=style, policy=policy
    )


def write_page(path: Path, page: str) -> None:
    """Write the page to a file."""
    path.write_text(page, encoding="utf-8", newline="\n")


def is_page(path: Path) -> bool:
    """Return whether a file is such a page."""
    with path.open("rb") as stream:
        return TITLE in stream.read(HEAD)


@cache
def build_environment() -> Environment:
    """Return templates that escape everything, and for which an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("components.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=readable,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    # the wording of numbers is the same in templates and charts
    environment.filters |= {name: getattr(wording, name) for name in FILTERS}
    return environment


def readable(value: Any) -> Any:
    """Return text whose invisible characters are written as their escapes."""
    # markup was built here, out of text that was made readable
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value

    return "".join(map(visible, value))


def visible(character: str) -> str:
    """Return a character, or its escape as Python writes it."""
    if character in SHOWN_AS_THEY_ARE or unicodedata.category(character) not in INVISIBLE:
        return character
    return character.encode("unicode_escape").decode("ascii")

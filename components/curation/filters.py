"""Keep or drop one row by its text: clean strings, conversations in LLaVA format, captions.

Text is never normalised or cut: what is kept is what was written, without control characters and outer white space.
"""

import re
from typing import Annotated, Any

from pydantic import Field

from components import schema
from components.curation.reasons import Reason, Rejected
from components.params import Params

ROLES = {"human": schema.USER, "gpt": schema.ASSISTANT}
# ASCII and Latin-1 controls but newline and tab; zero-width space, word joiner and byte order mark; bidirectional marks
# and overrides. The zero-width joiners (U+200C, U+200D) shape emoji and several scripts and stay.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
Turn = dict[str, str]


class TextLimits(Params):
    """What is accepted as text."""

    min_caption_characters: Annotated[int, Field(ge=1)]
    max_caption_characters: Annotated[int, Field(ge=1)]
    max_turn_characters: Annotated[int, Field(ge=1)]  # of one question or answer


def clean_text(text: object) -> tuple[str, bool]:
    """The string without control characters and outer white space, and whether control characters were removed.

    Raises Rejected: not a string, or a lone surrogate, which no file can hold.
    """
    if not isinstance(text, str):
        raise Rejected(Reason.BAD_RECORD, f"{type(text).__name__} where text belongs")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"lone surrogate at character {error.start}") from None
    text = text.replace("\r\n", "\n")
    cleaned = CONTROLS.sub("", text)
    return cleaned.strip(), len(cleaned) != len(text)


def check_conversation(turns: object, has_picture: bool, limits: TextLimits) -> tuple[list[Turn], bool]:
    """LLaVA's turns as user and assistant turns, and whether characters were removed.

    Users and assistants alternate, the user begins, the assistant ends. `<image>` stands once, in the first turn, when
    there is a picture, and nowhere when there is none. Raises Rejected.
    """
    if not isinstance(turns, list) or not turns:
        raise Rejected(Reason.BAD_CONVERSATION, "no turns")
    if len(turns) % 2:
        raise Rejected(Reason.BAD_CONVERSATION, f"{len(turns)} turns: the last question has no answer")
    checked = [_check_turn(turn, index, limits) for index, turn in enumerate(turns)]
    _check_placeholders([turn[schema.CONTENT] for turn, _ in checked], has_picture)
    return [turn for turn, _ in checked], any(repaired for _, repaired in checked)


def check_caption(text: object, limits: TextLimits) -> tuple[str, bool]:
    """The caption, and whether characters were removed. Raises Rejected."""
    caption, repaired = clean_text(text)
    if len(caption) < limits.min_caption_characters:
        raise Rejected(Reason.EMPTY_CAPTION, f"{len(caption)} characters")
    if len(caption) > limits.max_caption_characters:
        raise Rejected(Reason.TEXT_TOO_LONG, f"caption of {len(caption)} characters")
    if schema.IMAGE_PLACEHOLDER in caption:
        raise Rejected(Reason.PLACEHOLDER_MISMATCH, f"{schema.IMAGE_PLACEHOLDER} inside a caption")
    return caption, repaired


def caption_of(turns: list[Turn], prompts: tuple[str, ...], limits: TextLimits) -> str | None:
    """The answer to the first caption prompt of a conversation, if it is no longer than a caption may be."""
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        if question[schema.CONTENT].replace(schema.IMAGE_PLACEHOLDER, "").strip() in prompts:
            caption = answer[schema.CONTENT]
            return caption if len(caption) <= limits.max_caption_characters else None
    return None


def _check_turn(turn: Any, index: int, limits: TextLimits) -> tuple[Turn, bool]:
    if not isinstance(turn, dict) or "value" not in turn:
        raise Rejected(Reason.BAD_CONVERSATION, f"turn {index} has no value")
    expected = ("human", "gpt")[index % 2]
    if turn.get("from") != expected:
        raise Rejected(Reason.BAD_CONVERSATION, f"turn {index} is from {turn.get('from')!r}, not from {expected!r}")
    text, repaired = clean_text(turn["value"])
    if not text.replace(schema.IMAGE_PLACEHOLDER, "").strip():
        raise Rejected(Reason.EMPTY_TEXT, f"turn {index} from {expected!r} says nothing")
    if len(text) > limits.max_turn_characters:
        raise Rejected(Reason.TEXT_TOO_LONG, f"turn {index} has {len(text)} characters")
    return {schema.ROLE: ROLES[expected], schema.CONTENT: text}, repaired


def _check_placeholders(texts: list[str], has_picture: bool) -> None:
    counts = [text.count(schema.IMAGE_PLACEHOLDER) for text in texts]
    if counts[0] != int(has_picture) or any(counts[1:]):
        pictures = "one picture" if has_picture else "no picture"
        raise Rejected(Reason.PLACEHOLDER_MISMATCH, f"{schema.IMAGE_PLACEHOLDER} per turn: {counts}, with {pictures}")

"""Filters of one row by its text: clean strings, conversations in LLaVA format, captions.

Text is never normalised or cut: what is kept is what was written, without control characters and
outer white space. Controls that part words (line ends of other systems, vertical tabs, separators)
become white space, so that none glues.
"""

import re
from typing import Annotated, Any

from pydantic import Field

from components import schema
from components.curation.reasons import Reason, Rejected
from components.curation.records import shown
from components.params import Params

SPEAKERS = ("human", "gpt")  # in turn
ROLES = {"human": schema.USER, "gpt": schema.ASSISTANT}
# What ends a line elsewhere: a carriage return alone, and the ends of lines and paragraphs of ISO
# 6429 and Unicode.
LINE_ENDS = re.compile(r"[\r\x85\u2028\u2029]")
# vertical tab, form feed, and the separators of files to units
SPACES = re.compile(r"[\x0b\x0c\x1c-\x1f]")
# The other ASCII and Latin-1 controls but newline and tab; zero-width space, word joiner and byte
# order mark; bidirectional marks and overrides. The zero-width joiners (U+200C, U+200D) shape emoji
# and several scripts and stay.
CONTROLS = re.compile(
    r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    r"\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
)
# What stands for a video, a sound or points in the conversations of models that read them.
OTHER_MODALITIES = re.compile(
    r"<\|?(?:vid|videos?|audios?|sound|speech|point|point_?cloud|pcd|3d)"
    r"(?:_?(?:pad|start|end|bos|eos|placeholder|token))?(?:_?[0-9]+)?\|?>",
    re.IGNORECASE,
)
Turn = dict[str, str]


class TextLimits(Params):
    """Limits of accepted text."""

    min_caption_characters: Annotated[int, Field(ge=1)]
    max_caption_characters: Annotated[int, Field(ge=1)]
    max_turn_characters: Annotated[int, Field(ge=1)]  # of one question or answer


def clean_text(text: object, line_end: str = " ") -> tuple[str, bool]:
    """Return a string without controls and outer white space, and whether it had controls.

    `line_end`: what the line ends of other systems become, but `\\r\\n`, which is a new line as
    everywhere. Raises Rejected: not a string, or a lone surrogate, which no file can hold.
    """
    if not isinstance(text, str):
        raise Rejected(Reason.BAD_RECORD, f"{type(text).__name__} where text belongs")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejected(Reason.BAD_ENCODING, f"lone surrogate at character {error.start}") from None

    # A new line of another system is no fault of a text.
    text = text.replace("\r\n", "\n")
    cleaned = CONTROLS.sub("", SPACES.sub(" ", LINE_ENDS.sub(line_end, text)))
    return cleaned.strip(), cleaned != text


def check_conversation(
    turns: object, has_picture: bool, limits: TextLimits
) -> tuple[list[Turn], bool]:
    """Return LLaVA's turns as user and assistant turns, and whether characters were removed.

    Users and assistants alternate, the user begins, the assistant ends. `<image>` stands once, in
    the first turn, when there is a picture, and nowhere when there is none. Raises Rejected.
    """
    if not isinstance(turns, list) or not turns:
        raise Rejected(Reason.BAD_CONVERSATION, "no turns")
    _check_order(turns)

    checked, any_repaired = [], False
    for index, turn in enumerate(turns):
        clean, is_repaired = _check_turn(turn, index, limits)
        checked.append(clean)
        any_repaired |= is_repaired

    # on clean text, in which no control character hides a placeholder
    texts = [turn[schema.CONTENT] for turn in checked]
    for text in texts:
        _check_modality(text)
    _check_placeholders(texts, has_picture)
    return checked, any_repaired


def check_caption(text: object, limits: TextLimits) -> tuple[str, bool]:
    """Return a clean caption, and whether characters were removed. Raises Rejected."""
    caption, repaired = clean_text(text)
    if len(caption) < limits.min_caption_characters:
        raise Rejected(Reason.EMPTY_CAPTION, f"{len(caption)} characters")
    if len(caption) > limits.max_caption_characters:
        raise Rejected(Reason.TEXT_TOO_LONG, f"caption of {len(caption)} characters")
    _check_modality(caption)
    if schema.IMAGE_PLACEHOLDER in caption:
        raise Rejected(Reason.PLACEHOLDER_MISMATCH, f"{schema.IMAGE_PLACEHOLDER} inside a caption")
    return caption, repaired


def check_phrases(texts: object, limits: TextLimits) -> tuple[list[str], bool]:
    """Return clean further texts about a picture, equal ones once; none where there are none.

    The second value is whether characters were removed. Raises Rejected.
    """
    if texts is None:
        return [], False
    if not isinstance(texts, list):
        raise Rejected(Reason.BAD_RECORD, f"phrases is {shown(texts)}, no list of texts")
    checked, any_repaired = [], False
    for text in texts:
        phrase, is_repaired = check_caption(text, limits)
        checked.append(phrase)
        any_repaired |= is_repaired
    return list(dict.fromkeys(checked)), any_repaired


def caption_of(turns: list[Turn], prompts: tuple[str, ...], limits: TextLimits) -> str | None:
    """Return the answer to the first caption prompt of a conversation; None if it is too long."""
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        if question[schema.CONTENT].replace(schema.IMAGE_PLACEHOLDER, "").strip() in prompts:
            caption = answer[schema.CONTENT]
            return caption if len(caption) <= limits.max_caption_characters else None
    return None


def _check_order(turns: list[Any]) -> None:
    """Raise Rejected unless questions and answers alternate; name a turn of another speaker."""
    for index, turn in enumerate(turns):
        if not isinstance(turn, dict) or "value" not in turn:
            raise Rejected(Reason.BAD_CONVERSATION, f"turn {index} has no value")

        speaker, expected = turn.get("from"), SPEAKERS[index % 2]
        if speaker not in SPEAKERS:
            what = f"turn {index} is from {shown(speaker)}; only human and gpt are read"
            raise Rejected(Reason.BAD_CONVERSATION, what)
        if speaker != expected:
            what = f"turn {index} is from {speaker!r}, not from {expected!r}"
            raise Rejected(Reason.BAD_CONVERSATION, what)

    if len(turns) % 2:
        what = f"{len(turns)} turns: the last question has no answer"
        raise Rejected(Reason.BAD_CONVERSATION, what)


def _check_turn(turn: dict[str, Any], index: int, limits: TextLimits) -> tuple[Turn, bool]:
    speaker = SPEAKERS[index % 2]
    text, repaired = clean_text(turn["value"], line_end="\n")
    if not text.replace(schema.IMAGE_PLACEHOLDER, "").strip():
        raise Rejected(Reason.EMPTY_TEXT, f"turn {index} from {speaker!r} says nothing")
    if len(text) > limits.max_turn_characters:
        raise Rejected(Reason.TEXT_TOO_LONG, f"turn {index} has {len(text)} characters")
    return {schema.ROLE: ROLES[speaker], schema.CONTENT: text}, repaired


def _check_modality(text: str) -> None:
    if found := OTHER_MODALITIES.search(text):
        what = f"{found.group()} in the text; only pictures can be read"
        raise Rejected(Reason.OTHER_MODALITY, what)


def _check_placeholders(texts: list[str], has_picture: bool) -> None:
    counts = [text.count(schema.IMAGE_PLACEHOLDER) for text in texts]
    if counts[0] != int(has_picture) or any(counts[1:]):
        pictures = "one picture" if has_picture else "no picture"
        what = f"{schema.IMAGE_PLACEHOLDER} per turn: {counts}, with {pictures}"
        raise Rejected(Reason.PLACEHOLDER_MISMATCH, what)

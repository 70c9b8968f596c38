"""Quality of captions of the web: weak signs of text that is no caption, each with a threshold.

Language is judged by script alone: short captions are too short for a language detector to be right
about.
"""

import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Annotated

from pydantic import Field

from components.curation.reasons import Reason, Rejected
from components.params import Params

FEW_WORDS = 4  # too few to speak of repetition
Share = Annotated[float, Field(ge=0, le=1)]


class CaptionQuality(Params):
    """Rules for the captions of pairs; conversations are not judged."""

    min_words: Annotated[int, Field(ge=1)]  # separated by spaces; 1 for languages without
    min_letter_share: Share  # of the characters that are no white space
    max_word_share: Share  # of the commonest word, where there are four words or more
    # alphabets by the names that Unicode gives their letters, e.g. [LATIN]; none: any
    scripts: tuple[str, ...]
    min_script_share: Share  # of the letters, that are of one of these
    # of a source, with the same caption; null: any number
    max_rows_per_caption: Annotated[int, Field(ge=1)] | None


def check_quality(caption: str, params: CaptionQuality) -> None:
    """Raise Rejected for text that is hardly a caption."""
    words = caption.lower().split()
    if len(words) < params.min_words:
        raise Rejected(Reason.LOW_QUALITY, f"{len(words)} words")

    # Letters with their accents, of any alphabet; tables, prices and file names have few.
    characters = "".join(caption.split())
    letters = [character for character in characters if unicodedata.category(character)[0] in "LM"]
    if len(letters) < params.min_letter_share * len(characters):
        what = f"{len(letters)} of {len(characters)} characters are letters"
        raise Rejected(Reason.LOW_QUALITY, what)

    # Lists of search words repeat themselves.
    if len(words) >= FEW_WORDS:
        word, count = Counter(words).most_common(1)[0]
        if count > params.max_word_share * len(words):
            raise Rejected(Reason.LOW_QUALITY, f"{count} of {len(words)} words are {word[:40]!r}")

    if params.scripts:
        allowed = (*params.scripts, "COMBINING")  # accents are of any alphabet
        known = sum(script_of(letter) in allowed for letter in letters)
        if known < params.min_script_share * len(letters):
            what = f"{known} of {len(letters)} letters are {' or '.join(params.scripts)}"
            raise Rejected(Reason.OTHER_SCRIPT, what)


@lru_cache(maxsize=4096)
def script_of(letter: str) -> str:
    """Return the first word of a letter's name in Unicode: LATIN, CYRILLIC, CJK, ARABIC, …"""
    return unicodedata.name(letter, "UNNAMED").split()[0]

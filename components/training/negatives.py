"""Hard negatives: captions that are wrong by a word or two (NegCLIP, Yuksekgonul et al., 2023; SugarCrepe's swaps).

Words come in groups that can stand in for one another, such as colours or sides. Where a caption
has two words of a group they change places; where it has one, another of the group takes its place.
"""

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def hard_negative(
    caption: str, groups: Sequence[Sequence[str]], rng: np.random.Generator
) -> str | None:
    """A caption that says something else with nearly the same words; None if it has no word of any group."""
    words = re.split(r"(\W+)", caption)  # words and what is between them, in turns
    changes = [change for group in groups for change in changes_within(words, group)]
    if not changes:
        return None
    for place, word in changes[int(rng.integers(len(changes)))]:
        words[place] = word
    return "".join(words)


def changes_within(words: Sequence[str], group: Sequence[str]) -> list[list[tuple[int, str]]]:
    """What could be written where: every swap of two different words of the group, or else every replacement."""
    places = [place for place, word in enumerate(words) if word.lower() in group]
    pairs = [(a, b) for a, b in combinations(places, 2) if words[a].lower() != words[b].lower()]
    if pairs:
        return [[(a, words[b]), (b, words[a])] for a, b in pairs]
    return [
        [(place, other)] for place in places for other in group if other != words[place].lower()
    ]

"""Hard negatives: captions that are wrong by a word or two.

Words come in groups that can stand in for one another, such as colours or sides. Where a caption
has two words of a group they change places; where it has one, another of the group takes its place
(NegCLIP, Yuksekgonul et al., 2023; SugarCrepe's swaps, Hsieh et al., 2023).
"""

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def hard_negative(
    caption: str, groups: Sequence[Sequence[str]], rng: np.random.Generator
) -> str | None:
    """Make a caption false with nearly the same words; None if it has no word of any group."""
    words = re.split(r"(\W+)", caption)  # words and the stretches between them, in turns
    changes: list[list[tuple[int, str]]] = []
    for group in groups:
        changes += changes_within(words, group)
    if not changes:
        return None

    for place, word in changes[int(rng.integers(len(changes)))]:
        words[place] = word
    return "".join(words)


def changes_within(words: Sequence[str], group: Sequence[str]) -> list[list[tuple[int, str]]]:
    """List every swap of two different words of the group, else every replacement of one."""
    places = [place for place, word in enumerate(words) if word.lower() in group]
    changes: list[list[tuple[int, str]]] = []  # each: which word to write at which places

    # a swap keeps all words of the caption, the harder negative
    for a, b in combinations(places, 2):
        if words[a].lower() != words[b].lower():
            changes.append([(a, words[b]), (b, words[a])])
    if changes:
        return changes

    for place in places:
        for other in group:
            if other != words[place].lower():
                changes.append([(place, other)])
    return changes

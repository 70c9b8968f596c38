"""Hard negatives: captions that are wrong by a word or two.

Words come in groups that can stand in for one another, such as colours or sides. Where a caption
has two words of a group they change places; where it has one, another of the group takes its place
(NegCLIP, Yuksekgonul et al., 2023; SugarCrepe's swaps, Hsieh et al., 2023), one that stands in
another text about the picture if there is one: "a large red dot" is told from "a small red dot"
without a look at sizes of red dots, unless something else in the picture is small.
"""

import re
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np


def hard_negative(
    text: str,
    groups: Sequence[Sequence[str]],
    known: Collection[str],
    plausible: Collection[str] | None,
    rng: np.random.Generator,
) -> str | None:
    """Make a text false with nearly the same words; None if no change will do.

    known: texts that are true of the picture, which are never the result.
    plausible: texts of which the result is one; None: any.
    """
    words = re.split(r"(\W+)", text)  # words and the stretches between them, in turns
    seen = set(re.split(r"\W+", " ".join(known).lower()))

    # a group first, then a change within it: of colours there are more than of sides, and a change
    # drawn among all would hardly ever be a side
    for number in rng.permutation(len(groups)):
        changes = changes_within(words, groups[number])
        order = [changes[i] for i in rng.permutation(len(changes))]

        # words of something else in the picture first: the others are known as wrong by themselves
        order.sort(key=lambda change: not seen.issuperset(word.lower() for _, word in change))
        for change in order:
            result = changed(words, change)
            is_true_by_accident = result in known
            if not is_true_by_accident and (plausible is None or result in plausible):
                return result
    return None


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


def changed(words: Sequence[str], change: Sequence[tuple[int, str]]) -> str:
    """Join the words, some of them replaced."""
    words = list(words)
    for place, word in change:
        words[place] = word
    return "".join(words)

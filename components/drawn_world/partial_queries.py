"""Scenes to partial queries: texts that name one object or two, and fit every scene with them."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import NamedTuple

from components.drawn_world.describe import indefinite, joined
from components.drawn_world.world import COLOURS, SHAPES, Scene

KINDS = {1: "one_object", 2: "two_object"}  # by the objects that a query names


class PartialQuery(NamedTuple):
    """A text, and the places of the scenes that it fits in the list of scenes."""

    kind: str
    text: str
    fitting: list[int]


def partial_queries(scenes: Sequence[Scene]) -> list[PartialQuery]:
    """Return a query for every object, then every two objects, that a scene shows together.

    At most 24 and 276. Nothing is drawn at random: objects stand in the order of the world.
    """
    shown: list[set[tuple[str, str]]] = []
    for scene in scenes:
        shown.append({sprite.pair for sprite in scene.sprites})
    objects = list(product(COLOURS, SHAPES))

    queries = []
    for number, kind in KINDS.items():
        for named in combinations(objects, number):
            # a scene that shows more fits as well
            fitting = [place for place, pairs in enumerate(shown) if pairs.issuperset(named)]
            if fitting:
                text = joined([indefinite(" ".join(pair)) for pair in named])
                queries.append(PartialQuery(kind, text, fitting))
    return queries

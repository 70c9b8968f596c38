"""Partial queries against a loop over scenes that reads the words by itself."""

import re

from components.drawn_world.partial_queries import partial_queries
from components.drawn_world.world import Scene, Sprite, WorldParams, draw_scene, scene_rng

WORLD = WorldParams(min_objects=2, max_objects=4, word_fraction=0.4)


def scene(*names: str) -> Scene:
    sprites = tuple(
        Sprite(*name.split(), "small", row, 0)  # type: ignore[misc]  # colour and shape
        for row, name in enumerate(names)
    )
    return Scene(sprites, None, "light", "plain", 0)


def test_a_query_fits_every_scene_with_its_objects_also_among_others() -> None:
    scenes = [scene("red circle", "blue star"), scene("blue star"), scene("blue star", "red star")]
    assert partial_queries(scenes) == [
        ("one_object", "a red circle", [0]),
        ("one_object", "a red star", [2]),
        ("one_object", "a blue star", [0, 1, 2]),
        ("two_object", "a red circle and a blue star", [0]),
        ("two_object", "a red star and a blue star", [2]),
    ]


def test_an_article_goes_with_its_word() -> None:
    texts = [query.text for query in partial_queries([scene("orange star", "red star")])]
    assert texts == ["a red star", "an orange star", "a red star and an orange star"]


def test_queries_are_those_that_a_loop_over_the_scenes_finds() -> None:
    scenes = [draw_scene(scene_rng(3, "test", index), WORLD, True) for index in range(40)]
    queries = partial_queries(scenes)
    for query in queries:
        named = re.findall(r"an? (\w+ \w+)", query.text)
        assert len(named) == {"one_object": 1, "two_object": 2}[query.kind]
        assert query.fitting == [
            index for index, it in enumerate(scenes) if all(name in it.names for name in named)
        ]

    # every object and every two objects of a scene have one query, in one of the two orders
    asked = [frozenset(re.findall(r"an? (\w+ \w+)", query.text)) for query in queries]
    shown = {frozenset({name}) for it in scenes for name in it.names}
    shown |= {frozenset({a, b}) for it in scenes for a in it.names for b in it.names}
    assert set(asked) == shown
    assert len(asked) == len(shown)


def test_there_are_no_queries_without_scenes() -> None:
    assert partial_queries([]) == []

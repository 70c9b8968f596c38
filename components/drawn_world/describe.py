"""Scenes to captions: one canonical caption, and four freer ways to say what is in the picture."""

from itertools import pairwise

import numpy as np

from components.drawn_world.world import Scene, Sprite, relation

NUMBERS = ("no", "one", "two", "three", "four", "five")


def full_caption(scene: Scene) -> str:
    """Every sprite with size and quadrant in raster order, then the word: the answer to "describe the picture."."""
    phrases = [
        f"a {sprite.size} {sprite.name} in the {sprite.quadrant}" for sprite in scene.sprites
    ]
    return joined(phrases) + _word_phrase(scene)


def indefinite(noun: str) -> str:
    """The noun with its article: "a red circle", "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five captions (COCO style): each names every sprite; the full one comes first."""
    return [
        full_caption(scene),
        joined([indefinite(sprite.name) for sprite in _shuffled(scene, rng)]) + _word_phrase(scene),
        _chain_caption(_shuffled(scene, rng)),
        f"{NUMBERS[len(scene.sprites)]} shapes: "
        + joined([f"a {s.size} {s.name}" for s in _shuffled(scene, rng)]),
        joined(
            [
                f"{indefinite(sprite.name)} in the {sprite.quadrant}"
                for sprite in _shuffled(scene, rng)
            ]
        )
        + f" on a {scene.background} background",
    ]


def _chain_caption(sprites: list[Sprite]) -> str:
    """ "a red circle left of a blue square, a blue square above a green star": neighbours of the list, related."""
    return ", ".join(
        f"{indefinite(first.name)} {relation(first, second)[0]} {indefinite(second.name)}"
        for first, second in pairwise(sprites)
    )


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[Sprite]:
    return [scene.sprites[i] for i in rng.permutation(len(scene.sprites))]


def _word_phrase(scene: Scene) -> str:
    return f" with the word {scene.word.text}" if scene.word else ""


def joined(phrases: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]

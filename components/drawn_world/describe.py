"""Scenes to captions: one canonical caption, and four freer ways to say what is in the picture."""

from itertools import pairwise, permutations

import numpy as np

from components.drawn_world.world import Scene, Sprite, relation

NUMBERS = ("no", "one", "two", "three", "four", "five")


def full_caption(scene: Scene) -> str:
    """Name every sprite with size and quadrant in raster order, then the word."""
    phrases = []
    for sprite in scene.sprites:
        phrases.append(f"a {sprite.size} {sprite.name} in the {sprite.quadrant}")
    return joined(phrases) + _word_phrase(scene)


def indefinite(noun: str) -> str:
    """Put the article before a noun: "a red circle", "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Write five captions (COCO style): each names every sprite; the full one comes first."""
    # Each caption has an order of its own.
    names = [indefinite(sprite.name) for sprite in _shuffled(scene, rng)]
    chain = _chain_caption(_shuffled(scene, rng))
    sizes = [f"a {sprite.size} {sprite.name}" for sprite in _shuffled(scene, rng)]
    places = []
    for sprite in _shuffled(scene, rng):
        places.append(f"{indefinite(sprite.name)} in the {sprite.quadrant}")

    return [
        full_caption(scene),
        joined(names) + _word_phrase(scene),
        chain,
        f"{NUMBERS[len(scene.sprites)]} shapes: {joined(sizes)}",
        f"{joined(places)} on a {scene.background} background",
    ]


def phrases(scene: Scene) -> list[str]:
    """List all short texts about the scene: of one object, with size or place, of two, of the word.

    The list is whole: a text of one of these forms that is not in it is false.
    """
    texts = []
    for sprite in scene.sprites:
        texts.append(indefinite(sprite.name))
        # By half a name, too: that the red object is small is a step towards the small red circle.
        for name in (sprite.name, f"{sprite.colour} object", sprite.shape):
            texts += [f"a {sprite.size} {name}", f"{indefinite(name)} in the {sprite.quadrant}"]

    # Two objects in either order, by themselves and in each relation that holds.
    for first, second in permutations(scene.sprites, 2):
        names = indefinite(first.name), indefinite(second.name)
        texts.append(" and ".join(names))
        for link in relation(first, second):
            texts.append(f"{names[0]} {link} {names[1]}")
    # At three lengths, each of which is read as often as any other: few scenes have a word.
    if scene.word:
        word = scene.word.text
        texts += [word, f"the word {word}", f"there is the word {word}"]
    return list(dict.fromkeys(texts))  # two small circles make one text


def _chain_caption(sprites: list[Sprite]) -> str:
    """Relate neighbours: "a red circle left of a blue square, a blue square above a green star"."""
    links = []
    for first, second in pairwise(sprites):
        names = indefinite(first.name), indefinite(second.name)
        links.append(f"{names[0]} {relation(first, second)[0]} {names[1]}")
    return ", ".join(links)


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[Sprite]:
    return [scene.sprites[i] for i in rng.permutation(len(scene.sprites))]


def _word_phrase(scene: Scene) -> str:
    return f" with the word {scene.word.text}" if scene.word else ""


def joined(phrases: list[str]) -> str:
    """Join phrases to "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]

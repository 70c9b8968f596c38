"""SugarCrepe-like pairs: a caption of the scene and the same caption with one thing made false.

Replace puts a false object, attribute or relation in the place of a true one, swap exchanges two,
add says too much (Hsieh et al. 2023; subsets as in the original, without those that need nouns this
world does not have).
"""

from collections.abc import Callable
from itertools import product

import numpy as np

from components.drawn_world.ask import OPPOSITES, draw_two
from components.drawn_world.describe import indefinite, joined
from components.drawn_world.world import COLOURS, SHAPES, Scene, Sprite, relation

Pair = tuple[str, str]  # true caption, false caption


def contrast_pairs(scene: Scene, rng: np.random.Generator) -> dict[str, Pair]:
    """Make one pair per subset that the scene allows, by subset name."""
    makers: dict[str, Callable[[Scene, np.random.Generator], Pair | None]] = {
        "replace_object": _replace_shape,
        "replace_attribute": _replace_colour,
        "replace_relation": _replace_relation,
        "swap_object": _swap_shapes,
        "swap_attribute": _swap_colours,
        "add_object": _add_object,
        "add_attribute": _add_size,
    }

    # Each maker draws in turn, so that the order of the subsets is part of the result.
    pairs: dict[str, Pair] = {}
    for subset, make in makers.items():
        pair = make(scene, rng)
        if pair is not None:
            pairs[subset] = pair
    return pairs


def _named(names: list[str]) -> str:
    return joined([indefinite(name) for name in names])


def _replace_shape(scene: Scene, rng: np.random.Generator) -> Pair | None:
    return _replace(scene, rng, lambda sprite: [f"{sprite.colour} {shape}" for shape in SHAPES])


def _replace_colour(scene: Scene, rng: np.random.Generator) -> Pair | None:
    return _replace(scene, rng, lambda sprite: [f"{colour} {sprite.shape}" for colour in COLOURS])


def _replace(
    scene: Scene, rng: np.random.Generator, options: Callable[[Sprite], list[str]]
) -> Pair | None:
    """Put one of `options` that the scene does not contain in the place of a random sprite."""
    names = scene.names
    place = int(rng.integers(0, len(names)))
    absent = [name for name in options(scene.sprites[place]) if name not in names]
    if not absent:
        return None
    other = absent[int(rng.integers(0, len(absent)))]
    return _named(names), _named([*names[:place], other, *names[place + 1 :]])


def _replace_relation(scene: Scene, rng: np.random.Generator) -> Pair:
    first, second = draw_two(scene, rng)
    true = str(rng.choice(list(relation(first, second))))
    names = indefinite(first.name), indefinite(second.name)
    return f"{names[0]} {true} {names[1]}", f"{names[0]} {OPPOSITES[true]} {names[1]}"


def _swap_shapes(scene: Scene, rng: np.random.Generator) -> Pair:
    """Exchange two objects in a true relation."""
    first, second = draw_two(scene, rng)
    true = str(rng.choice(list(relation(first, second))))
    names = indefinite(first.name), indefinite(second.name)
    return f"{names[0]} {true} {names[1]}", f"{names[1]} {true} {names[0]}"


def _swap_colours(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """Exchange the colours of two sprites, unless the scene has both results anyway."""
    first, second = draw_two(scene, rng)
    swapped = [f"{second.colour} {first.shape}", f"{first.colour} {second.shape}"]

    # Equal colours or shapes leave the caption true.
    if first.colour == second.colour or first.shape == second.shape:
        return None
    if {*swapped} <= {*scene.names}:
        return None
    return _named([first.name, second.name]), _named(swapped)


def _add_object(scene: Scene, rng: np.random.Generator) -> Pair:
    names, absent = scene.names, []
    for pair in product(COLOURS, SHAPES):
        if " ".join(pair) not in names:
            absent.append(" ".join(pair))
    return _named(names), _named([*names, absent[int(rng.integers(0, len(absent)))]])


def _add_size(scene: Scene, rng: np.random.Generator) -> Pair:
    """Give one sprite a size, the wrong one."""
    names = scene.names
    place = int(rng.integers(0, len(names)))
    wrong = "small" if scene.sprites[place].size == "large" else "large"
    return _named(names), _named([*names[:place], f"{wrong} {names[place]}", *names[place + 1 :]])

"""Scenes to questions with answers, one function per benchmark."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter

import numpy as np

from components.drawn_world.describe import NUMBERS, indefinite
from components.drawn_world.world import (
    COLOURS,
    HELD_OUT_PAIRS,
    SEEN_PAIRS,
    SHAPES,
    Scene,
    Sprite,
    relation,
)

CAPTION_PROMPT = "describe the picture."
WORD_QUESTION = "what word is written?"
UNANSWERABLE = "unanswerable"
LETTERS = ("A", "B", "C", "D")
COUNT_WORDS = ("zero", *NUMBERS[1:])
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Question:
    """A question about one scene; `group` ties questions that are scored together."""

    benchmark: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] | None = None
    group: int | None = None


def ask_short_answers(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """VQA style: ask for a colour, a shape, a count and a position, where the scene allows it."""
    questions = [ask(scene, rng) for ask in (ask_colour, ask_shape, ask_count, ask_position)]
    return list(filter(None, questions))


def ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the colour of a sprite whose shape no other sprite has."""
    sprite = _pick(rng, _unique(scene, "shape"))
    if sprite is None:
        return None
    return Question("short_answer", "colour", f"what colour is the {sprite.shape}?", sprite.colour)


def ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Ask for the shape of a sprite whose colour no other sprite has."""
    sprite = _pick(rng, _unique(scene, "colour"))
    if sprite is None:
        return None
    text = f"what shape is the {sprite.colour} object?"
    return Question("short_answer", "shape", text, sprite.shape)


def ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for the number of sprites, of one shape or in all."""
    if rng.random() < 0.5:
        text, count = "how many objects are there?", len(scene.sprites)
    else:
        shape = str(rng.choice(SHAPES))
        text = f"how many {shape}s are there?"
        count = sum(sprite.shape == shape for sprite in scene.sprites)
    return Question("short_answer", "count", text, COUNT_WORDS[count])


def ask_position(scene: Scene, rng: np.random.Generator) -> Question:
    """Ask for the quadrant of a sprite."""
    sprite = scene.sprites[int(rng.integers(0, len(scene.sprites)))]
    return Question("short_answer", "position", f"where is the {sprite.name}?", sprite.quadrant)


def ask_existence(
    scene: Scene, rng: np.random.Generator, popular: list[tuple[str, str]]
) -> list[Question]:
    """POPE: ask for one present and one absent pair of each kind, if it has any.

    Absent pairs are uniform (random), among the pairs most frequent in the data (popular), or made
    of a colour and a shape that the scene does contain, apart (adversarial).
    """
    present = {sprite.pair for sprite in scene.sprites}
    colours = {sprite.colour for sprite in scene.sprites}
    shapes = {sprite.shape for sprite in scene.sprites}

    # Held-out pairs only if the scene shows one: training must never name them.
    askable: Iterable[tuple[str, str]] = product(COLOURS, SHAPES)
    if present.isdisjoint(HELD_OUT_PAIRS):
        askable = SEEN_PAIRS
    absent = [pair for pair in askable if pair not in present]
    candidates = {
        "random": absent,
        "popular": [pair for pair in popular if pair not in present],
        "adversarial": [(c, s) for c, s in absent if c in colours and s in shapes],
    }

    # As many yes as no.
    questions = []
    for kind, pairs in candidates.items():
        if pairs:
            missing = pairs[int(rng.integers(0, len(pairs)))]
            shown = scene.sprites[int(rng.integers(0, len(scene.sprites)))].pair
            questions.append(_existence(kind, missing, "no"))
            questions.append(_existence(kind, shown, "yes"))
    return questions


def ask_relations(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """MME: ask for a true relation of two sprites and its opposite, in one group."""
    if len(scene.sprites) < 2:
        return []
    first, second = draw_two(scene, rng)
    true = str(rng.choice(list(relation(first, second))))

    questions = []
    for name, answer in ((true, "yes"), (OPPOSITES[true], "no")):
        text = f"is the {first.name} {name} the {second.name}?"
        questions.append(Question("relations", true, text, answer, group=0))
    return questions


def ask_multiple_choice(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """MMBench: ask one question with four options in all four rotations, in one group."""
    stem = ask_colour(scene, rng) or ask_shape(scene, rng)
    if stem is None:
        return []

    # Three wrong options; then the order, so that the right letter is drawn evenly.
    wrong = list(COLOURS if stem.kind == "colour" else SHAPES)
    wrong.remove(stem.answer)
    others = [wrong[i] for i in rng.permutation(len(wrong))[:3]]
    options = [stem.answer, *others]
    options = [options[i] for i in rng.permutation(4)]
    return [_multiple_choice(stem, options[turn:] + options[:turn]) for turn in range(4)]


def ask_word(scene: Scene) -> list[Question]:
    """TextVQA: ask for the written word, where there is one."""
    return [Question("word_reading", "word", WORD_QUESTION, scene.word.text)] if scene.word else []


def ask_unanswerable(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """VizWiz: ask about something the picture does not show."""
    shown_shapes = {sprite.shape for sprite in scene.sprites}
    shown_colours = {sprite.colour for sprite in scene.sprites}

    about_shapes, about_colours = [], []
    for colour in COLOURS:
        if colour not in shown_colours:
            about_shapes.append(f"what shape is the {colour} object?")
    for shape in SHAPES:
        if shape not in shown_shapes:
            about_colours.append(f"what colour is the {shape}?")

    # About as often for a colour, a shape and a word.
    texts = about_shapes + 2 * about_colours
    if scene.word is None:
        texts += 2 * [WORD_QUESTION]
    text = texts[int(rng.integers(0, len(texts)))]
    return [Question("unanswerable", "absent", text, UNANSWERABLE)]


def popular_pairs(scenes: Iterable[Scene], count: int) -> list[tuple[str, str]]:
    """Return the `count` most frequent (colour, shape) pairs, ties in alphabetical order."""
    frequency: Counter[tuple[str, str]] = Counter()
    for scene in scenes:
        frequency.update(sprite.pair for sprite in scene.sprites)
    return sorted(frequency, key=lambda pair: (-frequency[pair], pair))[:count]


def draw_two(scene: Scene, rng: np.random.Generator) -> tuple[Sprite, Sprite]:
    """Draw two different sprites."""
    first, second = rng.permutation(len(scene.sprites))[:2]
    return scene.sprites[first], scene.sprites[second]


def _existence(kind: str, pair: tuple[str, str], answer: str) -> Question:
    return Question("existence", kind, f"is there {indefinite(' '.join(pair))}?", answer)


def _multiple_choice(stem: Question, options: list[str]) -> Question:
    text, answer = with_options(stem.text, options), LETTERS[options.index(stem.answer)]
    return Question("multiple_choice", stem.kind, text, answer, choices=tuple(options), group=0)


def with_options(text: str, options: Sequence[str]) -> str:
    """Write a question with its options, each behind its letter."""
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return " ".join([text, *lettered])


def _unique(scene: Scene, attribute: str) -> list[Sprite]:
    """Return the sprites that share this attribute with no other."""
    value_of = attrgetter(attribute)
    counts = Counter(map(value_of, scene.sprites))
    return [sprite for sprite in scene.sprites if counts[value_of(sprite)] == 1]


def _pick(rng: np.random.Generator, sprites: list[Sprite]) -> Sprite | None:
    return sprites[int(rng.integers(0, len(sprites)))] if sprites else None

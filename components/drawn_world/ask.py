"""Scenes to questions with answers, one function per benchmark; the seven ways that a picture is asked about."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from components.drawn_world.describe import NUMBERS, indefinite
from components.drawn_world.world import COLOURS, HELD_OUT_PAIRS, SHAPES, Scene, Sprite, relation

CAPTION_PROMPT = "describe the picture."
WORD_QUESTION = "what word is written?"
UNANSWERABLE = "unanswerable"
LETTERS = ("A", "B", "C", "D")
COUNT_WORDS = ("zero", *NUMBERS[1:])
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class Question:
    """A question about one scene. `group` ties questions that are scored together (pairs, circular passes)."""

    benchmark: str
    kind: str
    text: str
    answer: str
    choices: tuple[str, ...] | None = None
    group: int | None = None


def ask_short_answers(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question each of colour, shape, count and position, where the scene allows one (VQA style)."""
    return [
        question
        for ask in (ask_colour, ask_shape, ask_count, ask_position)
        if (question := ask(scene, rng)) is not None
    ]


def ask_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Colour of a sprite whose shape no other sprite has."""
    sprite = _pick(rng, _unique(scene, "shape"))
    if sprite is None:
        return None
    return Question("short_answer", "colour", f"what colour is the {sprite.shape}?", sprite.colour)


def ask_shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    """Shape of a sprite whose colour no other sprite has."""
    sprite = _pick(rng, _unique(scene, "colour"))
    if sprite is None:
        return None
    return Question(
        "short_answer", "shape", f"what shape is the {sprite.colour} object?", sprite.shape
    )


def ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    """How many sprites, of one shape or in all."""
    if rng.random() < 0.5:
        return Question(
            "short_answer", "count", "how many objects are there?", COUNT_WORDS[len(scene.sprites)]
        )
    shape = str(rng.choice(SHAPES))
    count = sum(sprite.shape == shape for sprite in scene.sprites)
    return Question("short_answer", "count", f"how many {shape}s are there?", COUNT_WORDS[count])


def ask_position(scene: Scene, rng: np.random.Generator) -> Question:
    """Quadrant of a sprite."""
    sprite = _pick(rng, scene.sprites)
    assert sprite is not None
    return Question("short_answer", "position", f"where is the {sprite.name}?", sprite.quadrant)


def ask_existence(
    scene: Scene, rng: np.random.Generator, popular: list[tuple[str, str]]
) -> list[Question]:
    """POPE: for each kind one present and one absent pair, when there is one to ask about.

    Absent pairs are uniform (random), among the pairs most frequent in the data (popular), or made
    of a colour and a shape that the scene does contain, apart (adversarial).
    """
    present = {sprite.pair for sprite in scene.sprites}
    colours, shapes = {c for c, _ in present}, {s for _, s in present}
    absent = [pair for pair in _askable_pairs(scene) if pair not in present]
    candidates = {
        "random": absent,
        "popular": [pair for pair in popular if pair not in present],
        "adversarial": [(c, s) for c, s in absent if c in colours and s in shapes],
    }
    questions = []
    for kind, pairs in candidates.items():
        if pairs:
            questions.append(_existence(kind, pairs[int(rng.integers(0, len(pairs)))], "no"))
            questions.append(
                _existence(
                    kind, scene.sprites[int(rng.integers(0, len(scene.sprites)))].pair, "yes"
                )
            )
    return questions


def ask_relations(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """MME: about two sprites, a true relation (yes) and its opposite (no), in one group; nothing about one sprite."""
    if len(scene.sprites) < 2:
        return []
    first, second = (scene.sprites[i] for i in rng.permutation(len(scene.sprites))[:2])
    true = str(rng.choice(list(relation(first, second))))
    return [
        Question(
            "relations", true, f"is the {first.name} {name} the {second.name}?", answer, group=0
        )
        for name, answer in ((true, "yes"), (OPPOSITES[true], "no"))
    ]


def ask_multiple_choice(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """MMBench: one question with four options, asked in all four rotations, in one group."""
    stem = ask_colour(scene, rng) or ask_shape(scene, rng)
    if stem is None:
        return []
    wrong = [
        value for value in (COLOURS if stem.kind == "colour" else SHAPES) if value != stem.answer
    ]
    options = [stem.answer, *(wrong[i] for i in rng.permutation(len(wrong))[:3])]
    options = [options[i] for i in rng.permutation(4)]
    return [_multiple_choice(stem, options[turn:] + options[:turn]) for turn in range(4)]


def ask_word(scene: Scene) -> list[Question]:
    """TextVQA: the written word, where there is one."""
    return [Question("word_reading", "word", WORD_QUESTION, scene.word.text)] if scene.word else []


def ask_unanswerable(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """VizWiz: a question about something the picture does not show."""
    shapes = [shape for shape in SHAPES if all(sprite.shape != shape for sprite in scene.sprites)]
    colours = [
        colour for colour in COLOURS if all(sprite.colour != colour for sprite in scene.sprites)
    ]
    texts = [f"what shape is the {colour} object?" for colour in colours]
    texts += [f"what colour is the {shape}?" for shape in shapes] * 2
    texts += [WORD_QUESTION] * (2 if scene.word is None else 0)
    return [
        Question("unanswerable", "absent", texts[int(rng.integers(0, len(texts)))], UNANSWERABLE)
    ]


def popular_pairs(scenes: Iterable[Scene], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent (colour, shape) pairs of `scenes`, ties in alphabetical order."""
    frequency: dict[tuple[str, str], int] = {}
    for scene in scenes:
        for sprite in scene.sprites:
            frequency[sprite.pair] = frequency.get(sprite.pair, 0) + 1
    return sorted(frequency, key=lambda pair: (-frequency[pair], pair))[:count]


def _existence(kind: str, pair: tuple[str, str], answer: str) -> Question:
    return Question("existence", kind, f"is there {indefinite(' '.join(pair))}?", answer)


def _multiple_choice(stem: Question, options: list[str]) -> Question:
    text = " ".join(
        [
            stem.text,
            *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)),
        ]
    )
    answer = LETTERS[options.index(stem.answer)]
    return Question("multiple_choice", stem.kind, text, answer, choices=tuple(options), group=0)


def _askable_pairs(scene: Scene) -> list[tuple[str, str]]:
    """All pairs; without the held-out ones unless the scene shows one, so that training never names them."""
    held_out = (
        set() if any(s.pair in HELD_OUT_PAIRS for s in scene.sprites) else set(HELD_OUT_PAIRS)
    )
    return [
        (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in held_out
    ]


def _unique(scene: Scene, attribute: str) -> list[Sprite]:
    values = [getattr(sprite, attribute) for sprite in scene.sprites]
    return [sprite for sprite in scene.sprites if values.count(getattr(sprite, attribute)) == 1]


def _pick(rng: np.random.Generator, sprites: Iterable[Sprite]) -> Sprite | None:
    sprites = list(sprites)
    return sprites[int(rng.integers(0, len(sprites)))] if sprites else None

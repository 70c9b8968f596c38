"""Stage `scenes`: draw the demo world and write it in the file formats that real downloads come in.

python -m flows.scenes data/raw
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.drawn_world import ask
from components.drawn_world import file_formats as formats
from components.drawn_world.broken import Fault, broken_caption_members, broken_instruct_rows
from components.drawn_world.contrast import contrast_pairs
from components.drawn_world.converse import picture_turns, text_only_turns
from components.drawn_world.describe import captions, phrases
from components.drawn_world.draw import draw_picture
from components.drawn_world.partial_queries import partial_queries
from components.drawn_world.world import Scene, WorldParams, draw_scene, scene_rng
from components.files.outputs import new_folder
from components.params import Params, load_params
from flows.running.lifetime import die_with_parent


class ScenesParams(Params):
    """Sizes of the world."""

    seed: int
    world: WorldParams
    num_instruct_pictures: int
    num_text_only: int  # conversations without a picture
    num_caption_pairs: int
    num_validation_pictures: int
    num_test_pictures: int
    caption_fraction: float  # of conversations, end with a description
    placeholder_last_fraction: float  # of conversations, have <image> behind the first question
    min_questions: int  # per conversation, before equal ones are left out
    max_questions: int  # per conversation
    pairs_per_tar: int


def scenes(params: ScenesParams, output: Path) -> None:
    """Write `output`/{instruct,captions,evaluation} and the planted faults. Raises OutputError."""
    with new_folder("scenes", output) as partial:
        (partial / "instruct/pictures").mkdir(parents=True)
        faults = write_instruct(params, partial / "instruct")
        faults += write_caption_tars(params, partial / "captions")
        formats.write_json(partial / "broken.json", [asdict(fault) for fault in faults])

        counts = {"validation": params.num_validation_pictures, "test": params.num_test_pictures}
        for split, count in counts.items():
            write_evaluation(params, split, count, partial / "evaluation" / split)


def draw_stream(
    params: ScenesParams, stream: str, count: int
) -> Iterator[tuple[Scene, np.random.Generator]]:
    """Yield scene and generator, for every index of the stream."""
    for index in range(count):
        rng = scene_rng(params.seed, stream, index)
        # The caller draws on from the same generator.
        yield draw_scene(rng, params.world, allow_held_out=stream == "test"), rng
        if (index + 1) % 2000 == 0 or index + 1 == count:
            print(f"scenes: {stream}: {index + 1} of {count} drawn", flush=True)


def write_instruct(params: ScenesParams, folder: Path) -> list[Fault]:
    """Write LLaVA-665k: pictures, conversations about them or without any, and broken rows."""
    rows = []
    drawn = draw_stream(params, "instruct", params.num_instruct_pictures)
    for index, (scene, rng) in enumerate(drawn):
        name = f"pictures/{index:09d}.jpg"
        (folder / name).write_bytes(formats.jpeg_bytes(draw_picture(scene)))

        # The placeholder stands on either side of the first question, as in the published file.
        turns = picture_turns(
            scene, rng, params.caption_fraction, params.min_questions, params.max_questions
        )
        placeholder_last = rng.random() < params.placeholder_last_fraction
        rows.append(
            formats.llava_record(f"{index:09d}", turns, name, phrases(scene), placeholder_last)
        )

    # The same random stream goes on behind the pictures.
    for index in range(params.num_text_only):
        rng = scene_rng(params.seed, "instruct", params.num_instruct_pictures + index)
        rows.append(formats.llava_record(f"text-{index:06d}", text_only_turns(rng), None))

    # Escaped, since a lone surrogate among the faults has no UTF-8 form.
    broken, faults = broken_instruct_rows(folder / "pictures", rows, params.seed)
    text = json.dumps(rows + broken, indent=1) + "\n"
    (folder / "instruct.json").write_text(text, encoding="utf-8")
    return faults


def write_caption_tars(params: ScenesParams, folder: Path) -> list[Fault]:
    """Write CC3M: tars of `pairs_per_tar` captioned pictures, the last with the broken samples."""
    folder.mkdir()

    # One of a scene's five captions for each picture, as on the web.
    pairs = []
    for index, (scene, rng) in enumerate(draw_stream(params, "captions", params.num_caption_pairs)):
        texts = captions(scene, rng)
        caption = texts[int(rng.integers(0, len(texts)))]
        jpeg = formats.jpeg_bytes(draw_picture(scene))
        pairs.append((f"{index:09d}", jpeg, caption, phrases(scene)))

    # Broken samples are made from the last healthy ones, and stand behind them.
    broken, faults = broken_caption_members([pair[:3] for pair in pairs[-20:]], params.seed)
    for number, start in enumerate(range(0, len(pairs), params.pairs_per_tar)):
        members: list[tuple[str, bytes]] = []
        for pair in pairs[start : start + params.pairs_per_tar]:
            members += formats.caption_members(*pair)
        is_last = start + params.pairs_per_tar >= len(pairs)
        if is_last:
            members += broken
        formats.write_tar(folder / f"cc3m-train-{number:04d}.tar", members)
    return faults


def write_evaluation(params: ScenesParams, split: str, count: int, folder: Path) -> None:
    """Write questions, captions, caption pairs and queries about `count` new pictures."""
    (folder / "pictures").mkdir(parents=True)
    # All scenes first: which pairs are popular depends on the whole split.
    drawn = list(draw_stream(params, split, count))
    popular = ask.popular_pairs((scene for scene, _ in drawn), count=8)

    questions: list[dict[str, Any]] = []
    texts: dict[str, list[str]] = {}
    pairs: dict[str, dict[str, dict[str, str]]] = {}  # subset, number of the pair
    for index, (scene, rng) in enumerate(drawn):
        name = f"pictures/{index:09d}.jpg"
        (folder / name).write_bytes(formats.jpeg_bytes(draw_picture(scene)))

        # Questions, captions and pairs draw in this order from the generator of the scene.
        asked = evaluation_questions(scene, rng, popular)
        questions += question_rows(f"{split}-{index:06d}", name, asked)
        texts[name] = captions(scene, rng)
        for subset, (caption, negative) in contrast_pairs(scene, rng).items():
            rows = pairs.setdefault(subset, {})
            row = {"filename": name, "caption": caption, "negative_caption": negative}
            rows[str(len(rows))] = row

    formats.write_json_lines(folder / "questions.jsonl", questions)
    formats.write_json(folder / "captions.json", formats.coco_captions(texts))
    formats.write_json(folder / "compositionality.json", pairs)
    write_queries([scene for scene, _ in drawn], list(texts), folder)


def write_queries(drawn: Sequence[Scene], names: Sequence[str], folder: Path) -> None:
    """Write partial queries, and which of the pictures `names` of the scenes fit them."""
    queries: list[dict[str, Any]] = []
    relevant: dict[str, list[str]] = {}
    for number, query in enumerate(partial_queries(drawn)):
        query_id = f"{query.kind}-{number:03d}"
        queries.append(formats.beir_query(query_id, query.text, query.kind))
        relevant[query_id] = [names[place] for place in query.fitting]

    formats.write_json_lines(folder / "queries.jsonl", queries)
    formats.write_qrels(folder / "qrels.tsv", relevant)


def evaluation_questions(
    scene: Scene, rng: np.random.Generator, popular: list[tuple[str, str]]
) -> list[ask.Question]:
    """Ask every benchmark's questions about one scene."""
    return [
        *ask.ask_short_answers(scene, rng),
        *ask.ask_existence(scene, rng, popular),
        *ask.ask_relations(scene, rng),
        *ask.ask_multiple_choice(scene, rng),
        *ask.ask_word(scene),
        *ask.ask_unanswerable(scene, rng),
    ]


def question_rows(prefix: str, image: str, questions: list[ask.Question]) -> list[dict[str, Any]]:
    """Build rows of questions.jsonl; a group is named after the picture and the benchmark."""
    rows = []
    for number, question in enumerate(questions):
        group = f"{prefix}-{question.benchmark}-{question.group}"
        rows.append(
            {
                "question_id": f"{prefix}-{number:02d}",
                "image": image,
                "benchmark": question.benchmark,
                "kind": question.kind,
                "question": question.text,
                "answers": [question.answer],
                "choices": list(question.choices) if question.choices else None,
                "group": None if question.group is None else group,
            }
        )
    return rows


def main(output: Path) -> None:
    """Draw the demo world, in the file formats that real downloads come in."""
    die_with_parent()
    scenes(load_params("scenes", ScenesParams), output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("scenes")

"""Stage `inspect`: what the compressor has become, after Figures 3 to 6 of the paper.

    python -m flows.inspect data/curated models/compressor data/compressed/test data/inspection

The norms of its adapters; what its summary queries attend to, what its answers attend to, and what
those of its base model do; captions from the first of the stored tokens only; and short answers
without some of them. Each is a part of inspection.json of its own, which holds what was `found`, or
the `reason` why this compressor has no such thing.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image
from pydantic import Field

from components import schema
from components.compression.identity import check_base, check_same_model, find_base, read_config
from components.evaluation.asking import Sitting
from components.evaluation.intervals import BootstrapParams, mean_estimate
from components.evaluation.metrics import as_json, caption_metrics
from components.evaluation.question_set import Exam, Row, read_exam
from components.evaluation.scoring import answer_score
from components.evaluation.systems import COMPRESSED, answers, compressed_reader
from components.files.outputs import new_folder
from components.inspection.inspection_files import write_analysis
from components.inspection.maps import base_maps, compression_maps, generation_maps, seen_pictures
from components.inspection.norms import adapter_norms
from components.inspection.parts import AbsentError, part
from components.inspection.subsets import all_but, prefix_lengths, token_groups
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.chat import encode_prompt
from components.model.loading import load_backbone
from components.model.segments import text_segment
from components.params import Params, load_params
from components.pictures import PictureError, PictureLimits, decode_picture
from components.store.absence import reason_not_stored
from components.store.token_store import TokenStore
from flows.running.endings import ending
from flows.running.lifetime import die_with_parent

SHORT_ANSWER = "short_answer"
PARTS = ("norms", "query_attention", "answer_attention", "prefixes", "masks", "base_attention")
Images = dict[str, Image.Image]


class InspectParams(Params):
    """What is looked at, and how closely; pictures are drawn by the seed."""

    seed: int
    split: Literal["validation", "test"]  # of the pictures
    pictures: PictureLimits
    drawn_pictures: int = Field(ge=0)  # whose attention and captions are shown
    scored_pictures: int = Field(ge=1)  # whose captions and short answers are scored
    question: str  # that a caption answers
    max_caption_tokens: int = Field(ge=1)  # new tokens
    max_answer_tokens: int = Field(ge=1)  # new tokens
    questions_per_batch: int = Field(ge=1)  # prompts decoded together
    prefixes: tuple[int, ...]  # numbers of first summary tokens to caption from
    group_size: int = Field(ge=1)  # summary tokens left out together
    bootstrap: BootstrapParams
    num_threads: int = Field(ge=1)  # CPU threads of the model


class Subject(NamedTuple):
    """What is analysed, and by what."""

    params: InspectParams
    exam: Exam
    store: TokenStore
    drawn: Images  # by id, in the order in which they were drawn
    scored: list[str]  # picture ids, sorted


def inspect(
    params: InspectParams, curated: Path, compressor: Path, store: Path, output: Path
) -> None:
    """Write the analysis, whole or not at all. Raises OutputError before anything is looked at."""
    with new_folder("inspect", output, [curated, compressor, store]) as folder:
        write_analysis(folder, *find_out(params, curated, compressor, store))


def find_out(
    params: InspectParams, curated: Path, compressor: Path, store: Path
) -> tuple[dict[str, Any], Sequence[Image.Image]]:
    """The analysis, and the pictures that it is drawn over."""
    torch.set_num_threads(params.num_threads)
    if why := reason_not_stored(store):
        absent = {name: {"found": None, "reason": why} for name in PARTS}
        nothing = {
            "num_summary_tokens": 0,
            "pictures": [],
            "question": params.question,
            "seed": params.seed,
        }
        return nothing | absent, []
    subject, device = (
        prepare(params, curated, compressor, store),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
    parts = of_compressor(subject, load_subject(subject, compressor, torch.device(device)))
    backbone, images = (
        load_base(subject, compressor, torch.device(device)),
        list(subject.drawn.values()),
    )
    parts["base_attention"] = part(
        lambda: base_maps(backbone, images, params.question, params.max_caption_tokens)
    )
    for name, found in parts.items():
        print(
            f"inspect: {name}: {'done' if found['reason'] is None else found['reason']}", flush=True
        )
    about = {
        "num_summary_tokens": subject.store.provenance.num_summary_tokens,
        "pictures": [
            {"image_id": key, "references": subject.exam.captions.get(key, [])}
            for key in subject.drawn
        ],
        "question": params.question,
        "seed": params.seed,
    }
    return about | parts, seen_pictures(backbone, images)


def load_subject(subject: Subject, compressor: Path, device: torch.device) -> Method:
    """The compressor, as the store was made with it."""
    provenance = subject.store.provenance
    dtype = getattr(torch, provenance.compute["dtype"])
    return load_compressor(
        compressor, find_base(compressor, None), device, dtype, provenance.num_summary_tokens
    )


def load_base(subject: Subject, compressor: Path, device: torch.device) -> Backbone:
    """Its base model by itself: nothing in it was trained."""
    config, dtype = (
        read_config(compressor),
        getattr(torch, subject.store.provenance.compute["dtype"]),
    )
    base = find_base(compressor, None)
    check_base(compressor, base)
    backbone = load_backbone(base, config.base_revision, dtype, "sdpa", config.pad_to_square)
    return backbone.to(device).eval()


def prepare(params: InspectParams, curated: Path, compressor: Path, store: Path) -> Subject:
    """Read and draw. Raises ValueError: a store of another model or of other pictures."""
    exam, tokens = read_exam(curated, params.split), TokenStore.open(store)
    check_same_model(tokens.provenance, compressor)
    stored = [image_id for image_id in exam.image_ids if image_id in tokens]
    if not stored:
        raise ValueError(
            f"{store}: holds no picture of the split {params.split!r}; compress its pictures first"
        )
    scored = sorted(draw(stored, f"{params.seed} scored", params.scored_pictures))
    drawn = draw(stored, f"{params.seed} drawn", params.drawn_pictures)
    return Subject(
        params,
        exam,
        tokens,
        open_pictures(params, curated / "images" / params.split, drawn),
        scored,
    )


def draw(image_ids: Sequence[str], seed: str, count: int) -> list[str]:
    """At most `count` different ids of a sorted list."""
    return random.Random(seed).sample(image_ids, min(count, len(image_ids)))


def open_pictures(params: InspectParams, folder: Path, image_ids: Sequence[str]) -> Images:
    """The pictures with these ids, in their order. Raises ValueError for one that cannot be opened."""
    columns, wanted = [schema.IMAGE_ID, schema.IMAGE], [(schema.IMAGE_ID, "in", list(image_ids))]
    rows = pq.read_table(folder, columns=columns, filters=wanted).to_pylist() if image_ids else []
    files = {row[schema.IMAGE_ID]: row[schema.IMAGE] for row in rows}
    opened: Images = {}
    for image_id in image_ids:
        try:
            opened[image_id] = decode_picture(files.get(image_id, b""), params.pictures)
        except PictureError as error:
            raise ValueError(
                f"picture {image_id!r} of {folder}: {error}; compare `pictures` in params.yaml"
            ) from None
    return opened


def of_compressor(subject: Subject, model: Method) -> dict[str, Any]:
    """All that needs the compressor."""
    params, images = subject.params, list(subject.drawn.values())
    stored = torch.from_numpy(subject.store.tokens(list(subject.drawn)))
    return {
        "norms": part(lambda: adapter_norms(model.backbone.language_model.layers)),
        "query_attention": part(lambda: compression_maps(model, images)),
        "answer_attention": part(
            lambda: generation_maps(model, stored, params.question, params.max_caption_tokens)
        ),
        "prefixes": part(lambda: captions_of_prefixes(subject, model)),
        "masks": part(lambda: answers_without_groups(subject, model)),
    }


def captions_of_prefixes(subject: Subject, model: Method) -> list[dict[str, Any]]:
    """For every number of first tokens: the captions of the drawn pictures, and the scores of the scored ones."""
    described = [image_id for image_id in subject.scored if image_id in subject.exam.captions]
    references = [subject.exam.captions[image_id] for image_id in described]
    rows = []
    for length in prefix_lengths(
        subject.params.prefixes, subject.store.provenance.num_summary_tokens
    ):
        said = captions(subject, model, [*subject.drawn, *described], length)
        own, others = said[: len(subject.drawn)], said[len(subject.drawn) :]
        scores = (
            caption_metrics(described, others, references, subject.params.bootstrap)
            if described
            else {}
        )
        rows.append({"num_tokens": length, "captions": own, "scores": scores})
        print(f"inspect: {len(said)} captions from {length} tokens", flush=True)
    return rows


def captions(subject: Subject, model: Method, image_ids: Sequence[str], length: int) -> list[str]:
    """What the generation pass says of each picture from the first `length` stored tokens."""
    sitting = sit(subject, model, image_ids, list(range(length)))
    prompt = encode_prompt(sitting.chat, subject.params.question, length)
    visuals, params = sitting.visuals(image_ids), subject.params
    prompts = [prompt] * len(image_ids)
    found = answers(
        sitting.reader, visuals, prompts, params.max_caption_tokens, params.questions_per_batch
    )
    return [sitting.decode(tokens) for tokens in found]


def sit(subject: Subject, model: Method, image_ids: Sequence[str], kept: Sequence[int]) -> Sitting:
    """The generation pass before some of the stored tokens of these pictures. Raises AbsentError if it has none."""
    if model.why_no_answers:
        raise AbsentError(model.why_no_answers)
    tokens = torch.from_numpy(subject.store.tokens(image_ids)[:, kept])
    return Sitting(
        COMPRESSED,
        compressed_reader(model),
        model.backbone.chat,
        image_ids,
        text_segment(tokens),
        None,
    )


def answers_without_groups(subject: Subject, model: Method) -> dict[str, Any]:
    """The accuracy of short answers from all stored tokens, and without each group; the same questions each time."""
    num_tokens = subject.store.provenance.num_summary_tokens
    groups = token_groups(num_tokens, subject.params.group_size)
    rows = [
        row
        for image_id in subject.scored
        for row in subject.exam.questions.get(image_id, [])
        if row[schema.BENCHMARK] == SHORT_ANSWER
    ]
    if not rows:
        raise AbsentError("no short answer is asked about the pictures")
    whole = question_scores(subject, model, rows, list(range(num_tokens)))
    image_ids, bootstrap = [row[schema.IMAGE_ID] for row in rows], subject.params.bootstrap
    found = []
    for group in groups:
        scores = question_scores(subject, model, rows, all_but(group, num_tokens))
        accuracy = as_json(mean_estimate(scores, image_ids, bootstrap), "accuracy")
        difference = as_json(mean_estimate(scores - whole, image_ids, bootstrap), "difference")
        found.append({"tokens": group, "accuracy": accuracy, "difference": difference})
        print(
            f"inspect: without tokens {group}: {accuracy['accuracy']:.3f} of the short answers",
            flush=True,
        )
    return {
        "whole": as_json(mean_estimate(whole, image_ids, bootstrap), "accuracy"),
        "groups": found,
    }


def question_scores(
    subject: Subject, model: Method, rows: Sequence[Row], kept: Sequence[int]
) -> np.ndarray:
    """The score of each question, (questions,), answered from the stored tokens `kept`."""
    sitting, params = sit(subject, model, subject.scored, kept), subject.params
    prompts = [encode_prompt(sitting.chat, row[schema.QUESTION], len(kept)) for row in rows]
    visuals = sitting.visuals(row[schema.IMAGE_ID] for row in rows)
    found = answers(
        sitting.reader, visuals, prompts, params.max_answer_tokens, params.questions_per_batch
    )
    said = zip(rows, found, strict=True)
    return np.array(
        [
            answer_score(
                SHORT_ANSWER, sitting.decode(new), row[schema.ANSWERS], row[schema.CHOICES]
            )
            for row, new in said
        ]
    )


@ending("inspect")
def main(
    curated: Annotated[Path, typer.Argument(help="Folder that `curate` wrote.")],
    compressor: Annotated[Path, typer.Argument(help="Folder that `train` wrote.")],
    store: Annotated[Path, typer.Argument(help="Folder that `compress` wrote.")],
    output: Annotated[Path, typer.Argument(help="Folder for the analysis.")],
) -> None:
    """Look at what the compressor has become."""
    die_with_parent()
    inspect(load_params("inspect", InspectParams), curated, compressor, store, output)


if __name__ == "__main__":
    typer.run(main)

"""Stage `inspect`: the insides of the compressor, after Figures 3 to 6 of the paper.

    python -m flows.inspect data/curated models/compressor data/compressed/test data/inspection

Norms of the adapters; attention of the summary queries, of the answers, and of the base model's
answers; captions from the first stored tokens only; short answers without some of the tokens. Each
is a part of inspection.json, with what was `found`, or the `reason` why this compressor has none.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from pydantic import Field

from components import schema
from components.compression.identity import check_base, check_same_model, find_base, read_config
from components.evaluation.intervals import BootstrapParams, mean_estimate
from components.evaluation.metrics import as_json, caption_metrics
from components.evaluation.question_set import QuestionSet, Row, read_question_set
from components.evaluation.scoring import answer_score
from components.evaluation.systems import (
    COMPRESSED,
    EvaluatedSystem,
    compressed_reader,
    generate_answers,
)
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
from components.store.not_stored import reason_not_stored
from components.store.store_reader import StoreReader
from flows.running.lifetime import die_with_parent

SHORT_ANSWER = "short_answer"
PARTS = ("norms", "query_attention", "answer_attention", "prefixes", "masks", "base_attention")
Images = dict[str, Image.Image]


class InspectParams(Params):
    """Pictures, drawn by the seed, and the closeness of the look."""

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
    """Stored tokens under analysis, with pictures and questions."""

    params: InspectParams
    question_set: QuestionSet
    store: StoreReader
    drawn: Images  # by id, in the order in which they were drawn
    scored: list[str]  # picture ids, sorted

    @property
    def num_tokens(self) -> int:
        """Summary tokens of each picture."""
        return self.store.provenance.num_summary_tokens

    @property
    def dtype(self) -> torch.dtype:
        """Number type that the tokens were computed in."""
        return getattr(torch, self.store.provenance.compute["dtype"])


def inspect(
    params: InspectParams, curated: Path, compressor: Path, store: Path, output: Path
) -> None:
    """Write the analysis, whole or not at all. Raises OutputError before anything is looked at."""
    with new_folder("inspect", output, [curated, compressor, store]) as folder:
        write_analysis(folder, *analyse(params, curated, compressor, store))


def analyse(
    params: InspectParams, curated: Path, compressor: Path, store: Path
) -> tuple[dict[str, Any], Sequence[Image.Image]]:
    """Return the analysis, and the pictures that it is drawn over."""
    torch.set_num_threads(params.num_threads)
    about: dict[str, Any] = {
        "num_summary_tokens": 0,
        "pictures": [],
        "question": params.question,
        "seed": params.seed,
    }
    # Without stored tokens there is nothing to look at; the file says so.
    if why := reason_not_stored(store):
        return about | {name: {"found": None, "reason": why} for name in PARTS}, []

    # The compressor first, then its base model by itself.
    subject = prepare(params, curated, compressor, store)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = of_compressor(subject, load_subject(subject, compressor, device))
    backbone, images = load_base(subject, compressor, device), list(subject.drawn.values())
    parts["base_attention"] = part(
        lambda: base_maps(backbone, images, params.question, params.max_caption_tokens)
    )

    for name, found in parts.items():
        outcome = "done" if found["reason"] is None else found["reason"]
        print(f"inspect: {name}: {outcome}", flush=True)

    # References stand beside the captions that are shown.
    about["num_summary_tokens"] = subject.num_tokens
    for image_id in subject.drawn:
        references = subject.question_set.captions.get(image_id, [])
        about["pictures"].append({"image_id": image_id, "references": references})
    return about | parts, seen_pictures(backbone, images)


def prepare(params: InspectParams, curated: Path, compressor: Path, store: Path) -> Subject:
    """Read the tables and draw pictures.

    Raises ValueError: a store of another model or of other pictures.
    """
    question_set, tokens = read_question_set(curated, params.split), StoreReader.open(store)
    check_same_model(tokens.provenance, compressor)
    stored = [image_id for image_id in question_set.image_ids if image_id in tokens]
    if not stored:
        raise ValueError(
            f"{store}: holds no picture of the split {params.split!r}; compress its pictures first"
        )

    # Two draws of their own: changing one number leaves the other pictures as they were.
    scored = sorted(draw(stored, f"{params.seed} scored", params.scored_pictures))
    drawn = draw(stored, f"{params.seed} drawn", params.drawn_pictures)
    opened = open_pictures(params, curated / "images" / params.split, drawn)
    return Subject(params, question_set, tokens, opened, scored)


def draw(image_ids: Sequence[str], seed: str, count: int) -> list[str]:
    """Draw at most `count` different ids of a sorted list."""
    return random.Random(seed).sample(image_ids, min(count, len(image_ids)))


def open_pictures(params: InspectParams, folder: Path, image_ids: Sequence[str]) -> Images:
    """Open the pictures with these ids, in their order.

    Raises ValueError for one that cannot be opened.
    """
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


def load_subject(subject: Subject, compressor: Path, device: torch.device) -> Method:
    """Load the compressor as the store was made with it."""
    base = find_base(compressor, None)
    return load_compressor(compressor, base, device, subject.dtype, subject.num_tokens)


def load_base(subject: Subject, compressor: Path, device: torch.device) -> Backbone:
    """Load the compressor's base model by itself, as it was before the training."""
    config, base = read_config(compressor), find_base(compressor, None)
    check_base(compressor, base)
    backbone = load_backbone(
        base, config.base_revision, subject.dtype, "sdpa", config.pad_to_square
    )
    return backbone.to(device).eval()


def of_compressor(subject: Subject, model: Method) -> dict[str, Any]:
    """Return all parts that need the compressor."""
    # Each part is a function, so that one that this method lacks leaves the others alone.
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
    """Caption drawn and scored pictures from the first tokens, for every number of tokens."""
    references = subject.question_set.captions
    scored = [image_id for image_id in subject.scored if image_id in references]
    rows = []
    for length in prefix_lengths(subject.params.prefixes, subject.num_tokens):
        # Both sets in one call, so that they share batches.
        found = captions(subject, model, [*subject.drawn, *scored], length)
        of_drawn, of_scored = found[: len(subject.drawn)], found[len(subject.drawn) :]

        scores: dict[str, Any] = {}
        if scored:
            wanted = [references[image_id] for image_id in scored]
            scores = caption_metrics(scored, of_scored, wanted, subject.params.bootstrap)
        rows.append({"num_tokens": length, "captions": of_drawn, "scores": scores})
        print(f"inspect: {len(found)} captions from {length} tokens", flush=True)
    return rows


def captions(subject: Subject, model: Method, image_ids: Sequence[str], length: int) -> list[str]:
    """Caption each picture from the first `length` stored tokens."""
    system = system_with_tokens(subject, model, image_ids, range(length))
    prompt = encode_prompt(system.chat, subject.params.question, length)
    prompts, max_new_tokens = [prompt] * len(image_ids), subject.params.max_caption_tokens
    return answer_from_stored(subject, system, image_ids, prompts, max_new_tokens)


def answers_without_groups(subject: Subject, model: Method) -> dict[str, Any]:
    """Score the same short answers from all stored tokens, and without each group of them."""
    groups = token_groups(subject.num_tokens, subject.params.group_size)
    rows: list[Row] = []
    for image_id in subject.scored:
        asked = subject.question_set.questions.get(image_id, [])
        rows += [row for row in asked if row[schema.BENCHMARK] == SHORT_ANSWER]
    if not rows:
        raise AbsentError("no short answer is asked about the pictures")

    # The difference is paired by question, which makes its interval narrow.
    image_ids, bootstrap = [row[schema.IMAGE_ID] for row in rows], subject.params.bootstrap
    of_all = question_scores(subject, model, rows, range(subject.num_tokens))
    found = []
    for group in groups:
        scores = question_scores(subject, model, rows, all_but(group, subject.num_tokens))
        accuracy = as_json(mean_estimate(scores, image_ids, bootstrap), "accuracy")
        difference = as_json(mean_estimate(scores - of_all, image_ids, bootstrap), "difference")
        found.append({"tokens": group, "accuracy": accuracy, "difference": difference})
        share = accuracy["accuracy"]
        print(f"inspect: without tokens {group}: {share:.3f} of the short answers", flush=True)
    accuracy = as_json(mean_estimate(of_all, image_ids, bootstrap), "accuracy")
    return {"whole": accuracy, "groups": found}


def question_scores(
    subject: Subject, model: Method, rows: Sequence[Row], kept: Sequence[int]
) -> np.ndarray:
    """Score each question, (questions,), answered from the stored tokens `kept`."""
    system = system_with_tokens(subject, model, subject.scored, kept)
    prompts = [encode_prompt(system.chat, row[schema.QUESTION], len(kept)) for row in rows]
    image_ids = [row[schema.IMAGE_ID] for row in rows]
    max_new_tokens = subject.params.max_answer_tokens
    answers = answer_from_stored(subject, system, image_ids, prompts, max_new_tokens)

    scores = []
    for row, answer in zip(rows, answers, strict=True):
        references, choices = row[schema.ANSWERS], row[schema.CHOICES]
        scores.append(answer_score(SHORT_ANSWER, answer, references, choices))
    return np.array(scores)


def system_with_tokens(
    subject: Subject, model: Method, image_ids: Sequence[str], kept: Sequence[int]
) -> EvaluatedSystem:
    """Return the generation pass with some of the stored tokens of these pictures.

    Raises AbsentError if the model has no such pass.
    """
    if model.why_no_answers:
        raise AbsentError(model.why_no_answers)
    tokens = text_segment(torch.from_numpy(subject.store.tokens(image_ids)[:, list(kept)]))
    reader, chat = compressed_reader(model), model.backbone.chat
    return EvaluatedSystem(COMPRESSED, reader, chat, image_ids, tokens, None)


def answer_from_stored(
    subject: Subject,
    system: EvaluatedSystem,
    image_ids: Iterable[str],
    prompts: Sequence[list[int]],
    max_new_tokens: int,
) -> list[str]:
    """Answer prompts, each about the picture of its id, as texts."""
    visuals, batch_size = system.visuals(image_ids), subject.params.questions_per_batch
    answers = generate_answers(system.reader, visuals, prompts, max_new_tokens, batch_size)
    return [system.decode(tokens) for tokens in answers]


def main(curated: Path, compressor: Path, store: Path, output: Path) -> None:
    """Look at what the compressor has become."""
    die_with_parent()
    inspect(load_params("inspect", InspectParams), curated, compressor, store, output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("inspect")

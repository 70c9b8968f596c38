"""Scores of the compressor so far: retrieval and short answers on a slice of the validation split.

They choose the best weights and are not the evaluation: `evaluate` does that, from stored tokens.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from components import schema
from components.methods.method import AUTOREGRESSIVE, CONTRASTIVE, Method
from components.model.chat import encode_prompt
from components.params import Params
from components.pictures import PictureLimits, decode_picture
from components.training.collate import encode_texts
from components.training.distributed import gather_objects, rank, world_size

Item = TypeVar("Item")
Result = TypeVar("Result")
SHORT_ANSWER = "short_answer"  # the benchmark whose questions are asked


class ValidationParams(Params):
    """The slice, spread evenly over the validation split."""

    num_pictures: int = Field(ge=2)  # each with its first caption, at most
    num_questions: int = Field(ge=1)  # about these pictures, at most
    batch_size: int = Field(ge=1)  # pictures, captions or questions at a time
    max_new_tokens: int = Field(ge=1)  # of an answer


class Question(NamedTuple):
    picture: int  # position among the pictures
    text: str
    answers: list[str]


class ValidationSet(NamedTuple):
    pictures: list[Image.Image]
    captions: list[str]  # one per picture
    questions: list[Question]


def load_validation_set(
    curated: Path, params: ValidationParams, limits: PictureLimits
) -> ValidationSet:
    """Read the slice from the curated tables.

    Raises ValueError when there are too few pictures to search or no questions.
    """
    # pictures with a caption, evenly over the split
    split = schema.VALIDATION
    captions: dict[str, str] = {}
    for row in _rows(curated / "captions" / f"{split}.parquet"):
        if row[schema.CAPTIONS]:
            captions[row[schema.IMAGE_ID]] = row[schema.CAPTIONS][0]
    image_ids = spread(sorted(captions), params.num_pictures)
    is_chosen = pc.field(schema.IMAGE_ID).isin(image_ids)
    images = _rows(curated / "images" / split, is_chosen)
    data = {row[schema.IMAGE_ID]: row[schema.IMAGE] for row in images}

    # short questions about them
    is_short = pc.field(schema.BENCHMARK) == SHORT_ANSWER
    rows = _rows(curated / "questions" / f"{split}.parquet", is_short & is_chosen)
    rows.sort(key=itemgetter(schema.QUESTION_ID))

    if len(image_ids) < 2 or not rows:
        raise ValueError(
            f"{curated}: the validation split has {len(image_ids)} captioned pictures and "
            f"{len(rows)} questions ({SHORT_ANSWER}) about them; training needs at least 2 and 1 "
            "to tell which weights are best"
        )

    pictures = [decode_picture(data[image_id], limits) for image_id in image_ids]
    first_captions = [captions[image_id] for image_id in image_ids]
    questions: list[Question] = []
    for row in spread(rows, params.num_questions):
        picture = image_ids.index(row[schema.IMAGE_ID])
        questions.append(Question(picture, row[schema.QUESTION], row[schema.ANSWERS]))
    return ValidationSet(pictures, first_captions, questions)


@torch.no_grad()
def validate(
    model: Method,
    data: ValidationSet,
    batch_size: int,
    max_new_tokens: int,
    max_caption_tokens: int,
) -> dict[str, float]:
    """Score the tasks that the method learns: retrieval, answers, or both.

    Returns shares between 0 and 1 and the score, their mean over tasks; the same on every worker,
    for the workers take turns with the batches.
    """
    was_training = model.training
    model.eval()
    compressed = by_batches(lambda part: compress(model, part), data.pictures, batch_size)
    summary_tokens = torch.cat(compressed)  # (pictures, summary tokens, dim)

    # search both ways, over all pictures and captions of the slice
    metrics: dict[str, float] = {}
    scores: list[float] = []
    if CONTRASTIVE in model.losses:
        embedded = by_batches(
            lambda part: embed_captions(model, part, max_caption_tokens), data.captions, batch_size
        )
        logits_per_image = model.embed_pictures(summary_tokens) @ torch.cat(embedded).T
        metrics["recall_at_1_image_to_text"] = recall_at_1(logits_per_image)
        metrics["recall_at_1_text_to_image"] = recall_at_1(logits_per_image.T)
        scores.append(sum(metrics.values()) / 2)

    # answers from the summary tokens
    if AUTOREGRESSIVE in model.losses:
        is_right = by_batches(
            lambda part: answered_rightly(model, summary_tokens, part, max_new_tokens),
            data.questions,
            batch_size,
        )
        metrics["short_answer_accuracy"] = sum(map(sum, is_right)) / len(data.questions)
        scores.append(metrics["short_answer_accuracy"])

    model.train(was_training)
    return {**metrics, "score": sum(scores) / len(scores)}


def compress(model: Method, pictures: Sequence[Image.Image]) -> Tensor:
    """Compress pictures: summary tokens on the CPU, (pictures, summary_tokens, dim)."""
    return model.compress_pictures(model.prepare(pictures)).cpu()


def embed_captions(model: Method, captions: Sequence[str], max_tokens: int) -> Tensor:
    """Embed captions as queries of a search, on the CPU: (captions, dim)."""
    texts = encode_texts(model.tokenizer, captions, max_tokens).to(model.device)
    return model.embed_texts(texts.ids, texts.mask).cpu()


def answered_rightly(
    model: Method, summary_tokens: Tensor, questions: Sequence[Question], max_new_tokens: int
) -> list[bool]:
    """Mark greedy answers that are accepted ones, up to case and a final period."""
    tokenizer, chat, num_placeholders = model.tokenizer, model.chat, model.num_placeholders
    prompts = [encode_prompt(chat, question.text, num_placeholders) for question in questions]
    pictures = [question.picture for question in questions]
    visual_tokens = summary_tokens[pictures].to(model.device)
    answers = model.answer(visual_tokens, prompts, max_new_tokens)

    is_right = []
    for ids, question in zip(answers, questions, strict=True):
        answer = plain(tokenizer.decode(ids, skip_special_tokens=True))
        is_right.append(answer in map(plain, question.answers))
    return is_right


def plain(text: str) -> str:
    return text.strip().rstrip(".").lower()


def recall_at_1(logits: Tensor) -> float:
    """Return the share of rows of (queries, gallery) whose maximum is on the diagonal.

    Of equal values the first counts.
    """
    return int((logits.argmax(1) == torch.arange(len(logits))).sum()) / len(logits)


def by_batches(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], batch_size: int
) -> list[Result]:
    """Apply `function` to every batch; return the results in order, on every worker.

    Batch i is computed by worker i modulo their number.
    """
    starts = range(0, len(items), batch_size)
    mine: list[Result] = []
    for start in starts[rank() :: world_size()]:
        mine.append(function(items[start : start + batch_size]))

    # back into the order of the batches
    by_worker = gather_objects(mine)
    results: list[Result] = []
    for index in range(len(starts)):
        turn, worker = divmod(index, world_size())
        results.append(by_worker[worker][turn])
    return results


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """Choose at most `limit` items, evenly over the whole list."""
    count = min(limit, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _rows(path: Path, filter: pc.Expression | None = None) -> list[dict[str, Any]]:
    return ds.dataset(path, format="parquet").to_table(filter=filter).to_pylist()

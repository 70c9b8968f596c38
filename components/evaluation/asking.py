"""One system sits the exam on some pictures; what it said comes back as flat records."""

import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from components import schema
from components.evaluation.question_set import PAIR_ID, Exam, Row
from components.evaluation.systems import (
    Reader,
    Visuals,
    answers,
    batches_of_like_length,
    log_likelihoods,
)
from components.methods.method import Method
from components.model.chat import (
    IMAGE_PLACEHOLDER,
    ChatFormat,
    encode_conversation,
    encode_prompt,
    encode_text,
)
from components.model.generation import left_pad
from components.model.segments import Segment
from components.params import Params

ANSWER, CAPTION, PAIR, TEXT, IMAGE = "answer", "caption", "pair", "text", "image"
TIME, SIZE, LENGTH, COST = "time", "size", "length", "cost"

# One table for all that workers send back. By `record`:
#   ANSWER   key = question id, text, first = prompt tokens without visual ones, second = new tokens
#   CAPTION  key = picture id, text
#   PAIR     key = pair id, first and second = mean log-likelihood of caption and negative
#   TEXT     key = the caption, embedding
#   IMAGE    key = picture id, embedding
#   TIME     first = seconds, second = records
#   SIZE     key = what, first = how many
#   LENGTH   key = picture id, first = its image tokens
#   COST     key = a field of MethodCosts, first = its value
RECORDS = pa.schema(
    [
        ("system", pa.string()),
        ("record", pa.string()),
        ("key", pa.string()),
        ("text", pa.string()),
        ("first", pa.float64()),
        ("second", pa.float64()),
        ("embedding", pa.list_(pa.float32())),
    ]
)


class ExamParams(Params):
    """How systems are asked."""

    questions_per_batch: int = Field(ge=1)  # prompts decoded together
    max_answer_tokens: int = Field(ge=1)  # new tokens per answer
    caption_prompt: str  # the question that a caption answers
    max_caption_tokens: int = Field(ge=1)  # new tokens per caption
    max_text_tokens: int = Field(ge=1)  # tokens of a caption that are embedded, as in training


class Record(NamedTuple):
    """A row of RECORDS."""

    system: str
    record: str
    key: str
    text: str | None = None
    first: float | None = None
    second: float | None = None
    embedding: list[float] | None = None


class Sitting(NamedTuple):
    """Who is asked about which pictures."""

    system: str
    reader: Reader
    chat: ChatFormat
    image_ids: Sequence[str]
    visual_tokens: Segment | None  # what is known of each picture; None for the blind
    num_placeholders: int | None  # of a picture in a chat; None: as many as it has visual tokens

    @property
    def lengths(self) -> dict[str, int]:
        """The number of placeholders of each picture."""
        if self.visual_tokens is None:
            return dict.fromkeys(self.image_ids, 0)
        if self.num_placeholders is not None:
            return dict.fromkeys(self.image_ids, self.num_placeholders)
        return dict(zip(self.image_ids, self.visual_tokens.lengths, strict=True))

    def visuals(self, image_ids: Iterable[str]) -> Visuals:
        """Rows about these pictures, one row each."""
        places = {image_id: place for place, image_id in enumerate(self.image_ids)}
        return Visuals(self.visual_tokens, [places[image_id] for image_id in image_ids])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.chat.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def answer_questions(sitting: Sitting, exam: Exam, params: ExamParams) -> list[Record]:
    """One ANSWER per question about the pictures."""
    rows = [row for image_id in sitting.image_ids for row in exam.questions.get(image_id, [])]
    lengths = sitting.lengths
    num_visual = [lengths[row[schema.IMAGE_ID]] for row in rows]
    prompts = [
        encode_prompt(sitting.chat, row[schema.QUESTION], n)
        for row, n in zip(rows, num_visual, strict=True)
    ]
    visuals = sitting.visuals(row[schema.IMAGE_ID] for row in rows)
    found = answers(
        sitting.reader, visuals, prompts, params.max_answer_tokens, params.questions_per_batch
    )
    return [
        Record(
            sitting.system,
            ANSWER,
            row[schema.QUESTION_ID],
            sitting.decode(new),
            len(prompt) - n,
            len(new),
        )
        for row, prompt, n, new in zip(rows, prompts, num_visual, found, strict=True)
    ]


def describe_pictures(
    sitting: Sitting, image_ids: Sequence[str], params: ExamParams
) -> list[Record]:
    """One CAPTION per picture of `image_ids`."""
    lengths = sitting.lengths
    prompts = [
        encode_prompt(sitting.chat, params.caption_prompt, lengths[image_id])
        for image_id in image_ids
    ]
    visuals = sitting.visuals(image_ids)
    found = answers(
        sitting.reader, visuals, prompts, params.max_caption_tokens, params.questions_per_batch
    )
    return [
        Record(sitting.system, CAPTION, image_id, sitting.decode(new))
        for image_id, new in zip(image_ids, found, strict=True)
    ]


def weigh_pairs(sitting: Sitting, exam: Exam, params: ExamParams) -> list[Record]:
    """One PAIR per compositional pair: how likely each caption is as the answer to the caption prompt, per token.

    A generative model has no similarity of picture and text; this is what can stand in its place.
    """
    rows = [row for image_id in sitting.image_ids for row in exam.pairs.get(image_id, [])]
    found = [
        log_likelihoods(
            sitting.reader,
            sitting.visuals(row[schema.IMAGE_ID] for row in rows),
            [_caption_conversation(sitting, row, column, params.caption_prompt) for row in rows],
            params.questions_per_batch,
        )
        for column in (schema.CAPTION, schema.NEGATIVE_CAPTION)
    ]
    return [
        Record(sitting.system, PAIR, row[PAIR_ID], None, caption, negative)
        for row, caption, negative in zip(rows, *found, strict=True)
    ]


@torch.inference_mode()
def embed_texts(
    system: str, model: Method, texts: Sequence[str], params: ExamParams
) -> list[Record]:
    """One TEXT per caption, with its L2-normalised embedding."""
    ids = [encode_text(model.tokenizer, text)[: params.max_text_tokens] for text in texts]
    records: list[Record] = []
    for rows in batches_of_like_length([len(row) for row in ids], params.questions_per_batch):
        vectors = model.embed_texts(*left_pad([ids[row] for row in rows], model.device)).tolist()
        records += [
            Record(system, TEXT, texts[row], embedding=vector)
            for row, vector in zip(rows, vectors, strict=True)
        ]
    return records


@torch.inference_mode()
def embed_images(
    system: str, model: Method, image_ids: Sequence[str], summary_tokens: Tensor
) -> list[Record]:
    """One IMAGE per picture, with what its stored tokens (pictures, tokens, dim) are searched for."""
    vectors = (
        model.embed_pictures(summary_tokens.to(model.device)).tolist() if len(image_ids) else []
    )
    return [
        Record(system, IMAGE, image_id, embedding=vector)
        for image_id, vector in zip(image_ids, vectors, strict=True)
    ]


def to_table(records: Sequence[Record], system: str, start: float) -> pa.Table:
    """Records as a table, with a TIME record of the seconds since `start` (a reading of `time.perf_counter`)."""
    timed = [
        *records,
        Record(system, TIME, system, None, time.perf_counter() - start, len(records)),
    ]
    return pa.Table.from_pylist([row._asdict() for row in timed], RECORDS)


def _caption_conversation(
    sitting: Sitting, row: Row, column: str, prompt: str
) -> tuple[list[int], list[int]]:
    num_visual = sitting.lengths[row[schema.IMAGE_ID]]
    placeholder = f"{IMAGE_PLACEHOLDER}\n" if num_visual else ""
    turns: list[dict[str, Any]] = [
        {schema.ROLE: schema.USER, schema.CONTENT: placeholder + prompt},
        {schema.ROLE: schema.ASSISTANT, schema.CONTENT: row[column]},
    ]
    return encode_conversation(sitting.chat, turns, num_visual)

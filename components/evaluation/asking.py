"""Questions, captions and pairs put to one system; its outputs come back as flat records."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from components import schema
from components.evaluation.question_set import PAIR_ID, QuestionSet, Row
from components.evaluation.recall import MAXSIM, MEAN
from components.evaluation.systems import (
    EvaluatedSystem,
    batches_of_like_length,
    generate_answers,
    log_likelihoods,
    pick,
)
from components.losses.late_interaction import directions
from components.methods.method import Method
from components.model.chat import (
    IMAGE_PLACEHOLDER,
    encode_conversation,
    encode_prompt,
    encode_text,
)
from components.model.generation import left_pad
from components.params import Params

ANSWER, CAPTION, PAIR, TEXT, IMAGE = "answer", "caption", "pair", "text", "image"
TEXT_TOKENS, IMAGE_TOKENS = "text tokens", "image tokens"
# what a ranking compares
TEXTS, IMAGES = {MEAN: TEXT, MAXSIM: TEXT_TOKENS}, {MEAN: IMAGE, MAXSIM: IMAGE_TOKENS}
TIME, SIZE, LENGTH, COST = "time", "size", "length", "cost"

# One table for all that workers send back. By `record`:
#   ANSWER   key = question id, text, first = prompt tokens without visual ones, second = new tokens
#   CAPTION  key = picture id, text
#   PAIR     key = pair id, first and second = mean log-likelihood of caption and negative
#   TEXT     key = the caption, embedding
#   IMAGE    key = picture id, embedding
#   TEXT_TOKENS, IMAGE_TOKENS  the same with all tokens, one after another, as the embedding
#   TIME     first = seconds, second = records
#   SIZE     key = a field of ModelSize, first = its value
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


class PromptParams(Params):
    """Batches and lengths of what systems read and write."""

    questions_per_batch: int = Field(ge=1)  # prompts decoded together
    max_answer_tokens: int = Field(ge=1)  # new tokens per answer
    caption_prompt: str  # the question that a caption answers
    max_caption_tokens: int = Field(ge=1)  # new tokens per caption
    max_text_tokens: int = Field(ge=1)  # tokens of a caption that are embedded, as in training


class Record(NamedTuple):
    """Row of RECORDS."""

    system: str
    record: str
    key: str
    text: str | None = None
    first: float | None = None
    second: float | None = None
    embedding: list[float] | None = None


def answer_questions(
    system: EvaluatedSystem, question_set: QuestionSet, params: PromptParams
) -> list[Record]:
    """Answer every question about the pictures: one ANSWER each."""
    # Prompts of all pictures, so that those of like length share a batch.
    rows, image_ids = _rows_about(system.image_ids, question_set.questions)
    lengths, prompts = system.lengths, []
    for row, image_id in zip(rows, image_ids, strict=True):
        prompts.append(encode_prompt(system.chat, row[schema.QUESTION], lengths[image_id]))

    answers = generate_answers(
        system.reader,
        system.visuals(image_ids),
        prompts,
        params.max_answer_tokens,
        params.questions_per_batch,
    )

    # Costs count the text of a prompt and the answer; visual tokens are counted by themselves.
    records = []
    for row, prompt, new in zip(rows, prompts, answers, strict=True):
        question_id, text = row[schema.QUESTION_ID], system.decode(new)
        num_text_tokens = len(prompt) - lengths[row[schema.IMAGE_ID]]
        records.append(Record(system.name, ANSWER, question_id, text, num_text_tokens, len(new)))
    return records


def caption_pictures(
    system: EvaluatedSystem, image_ids: Sequence[str], params: PromptParams
) -> list[Record]:
    """Caption the pictures of `image_ids`: one CAPTION each."""
    # The same words about every picture; only the number of visual tokens differs.
    lengths, prompts = system.lengths, []
    for image_id in image_ids:
        prompts.append(encode_prompt(system.chat, params.caption_prompt, lengths[image_id]))

    visuals = system.visuals(image_ids)
    captions = generate_answers(
        system.reader, visuals, prompts, params.max_caption_tokens, params.questions_per_batch
    )
    records = []
    for image_id, new in zip(image_ids, captions, strict=True):
        records.append(Record(system.name, CAPTION, image_id, system.decode(new)))
    return records


def score_caption_pairs(
    system: EvaluatedSystem, question_set: QuestionSet, params: PromptParams
) -> list[Record]:
    """Score both captions of every compositional pair by their likelihood: one PAIR each.

    A caption is read as the answer to the caption prompt, and its score is the mean per token. A
    generative model has no similarity of picture and text; this can stand in its place.
    """
    rows, image_ids = _rows_about(system.image_ids, question_set.pairs)
    visuals, scores = system.visuals(image_ids), []

    # The caption of every pair, then its near-miss, as if either had been answered.
    batch_size, prompt = params.questions_per_batch, params.caption_prompt
    for column in (schema.CAPTION, schema.NEGATIVE_CAPTION):
        conversations = [_caption_conversation(system, row, column, prompt) for row in rows]
        scores.append(log_likelihoods(system.reader, visuals, conversations, batch_size))

    records = []
    for row, caption, negative in zip(rows, *scores, strict=True):
        records.append(Record(system.name, PAIR, row[PAIR_ID], None, caption, negative))
    return records


@torch.inference_mode()
def embed_texts(
    system: str, model: Method, texts: Sequence[str], ranking: str, params: PromptParams
) -> list[Record]:
    """Embed captions, L2-normalised, as a ranking compares them: one record of TEXTS each."""
    # Cut as in training: the model has learnt nothing about longer texts.
    ids = [encode_text(model.tokenizer, text)[: params.max_text_tokens] for text in texts]

    records: list[Record] = []
    for rows in batches_of_like_length(list(map(len, ids)), params.questions_per_batch):
        inputs = left_pad(pick(ids, rows), model.device)
        if ranking == MEAN:
            vectors = model.embed_texts(*inputs)
        else:
            vectors = directions(model.compress_texts(*inputs)).flatten(1)
        for row, vector in zip(rows, vectors.tolist(), strict=True):
            records.append(Record(system, TEXTS[ranking], texts[row], embedding=vector))
    return records


@torch.inference_mode()
def embed_images(
    system: str, model: Method, image_ids: Sequence[str], summary_tokens: Tensor, ranking: str
) -> list[Record]:
    """Embed pictures from their stored tokens (pictures, tokens, dim), as a ranking compares them.

    One record of IMAGES each.
    """
    if not image_ids:
        return []
    tokens = summary_tokens.to(model.device)
    vectors = model.embed_pictures(tokens) if ranking == MEAN else directions(tokens).flatten(1)
    records = []
    for image_id, vector in zip(image_ids, vectors.tolist(), strict=True):
        records.append(Record(system, IMAGES[ranking], image_id, embedding=vector))
    return records


def to_table(records: Sequence[Record], system: str, start: float) -> pa.Table:
    """Return records as a table, with a TIME record of the seconds since `start`.

    start: a reading of `time.perf_counter`.
    """
    time_record = Record(system, TIME, system, None, time.perf_counter() - start, len(records))
    rows = [record._asdict() for record in (*records, time_record)]
    return pa.Table.from_pylist(rows, RECORDS)


def _rows_about(
    image_ids: Sequence[str], rows_of_picture: Mapping[str, Sequence[Row]]
) -> tuple[list[Row], list[str]]:
    """Return the rows about pictures, in order of the pictures, and the picture of each row."""
    rows: list[Row] = []
    pictures: list[str] = []
    for image_id in image_ids:
        found = rows_of_picture.get(image_id, [])
        rows += found
        pictures += [image_id] * len(found)
    return rows, pictures


def _caption_conversation(
    system: EvaluatedSystem, row: Row, column: str, prompt: str
) -> tuple[list[int], list[int]]:
    num_visual = system.lengths[row[schema.IMAGE_ID]]
    # The blind system has no placeholder either.
    placeholder = f"{IMAGE_PLACEHOLDER}\n" if num_visual else ""
    turns: list[dict[str, Any]] = [
        {schema.ROLE: schema.USER, schema.CONTENT: placeholder + prompt},
        {schema.ROLE: schema.ASSISTANT, schema.CONTENT: row[column]},
    ]
    return encode_conversation(system.chat, turns, num_visual)

"""Pieces of an answering job: questions about neighbouring pictures, answered together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
import torch

from components.answering.decoding import DecodingParams, row_draws
from components.answering.prompts import answer_prompts
from components.answering.questions import Question, Reject
from components.answering.results import Answer, Asked
from components.model.backbone import Backbone
from components.model.chat import encode_prompt


def plan_pieces(
    questions: Sequence[Question], picture_order: Mapping[str, int], rows_per_piece: int
) -> Iterator[list[Asked]]:
    """Cut questions into pieces by count, sorted by the order of their pictures in the store."""
    asked = [Asked(place, question) for place, question in enumerate(questions)]
    asked.sort(key=lambda item: (picture_order[item.question.image_id], item.place))
    for start in range(0, len(asked), rows_per_piece):
        yield asked[start : start + rows_per_piece]


def answer_piece(
    backbone: Backbone,
    read_tokens: Callable[[Sequence[str]], np.ndarray],
    questions: Sequence[Question],
    params: DecodingParams,
    batch_size: int,
) -> list[Answer | Reject]:
    """Answer each question, or say why not; the adapter of the generation pass must be merged.

    read_tokens: picture ids -> (pictures, summary tokens, dim), as the reader of a store does.
    """
    # each picture is read once, however many questions are about it
    place_of: dict[str, int] = {}
    for question in questions:
        place_of.setdefault(question.image_id, len(place_of))
    tokens = torch.from_numpy(read_tokens(list(place_of)))

    # many questions are asked about several pictures: each is encoded once
    encode = cache(partial(encode_prompt, backbone.chat, num_visual_tokens=tokens.shape[1]))

    # a prompt that does not fit with its answer is rejected, the others are answered
    longest = backbone.max_positions - params.max_new_tokens
    outcomes: dict[int, Answer | Reject] = {}
    rows, prompts, pictures, keys = [], [], [], []
    for row, question in enumerate(questions):
        prompt = encode(question.question)
        if len(prompt) > longest:
            outcomes[row] = _too_long(question, len(prompt), longest)
            continue
        rows.append(row)
        prompts.append(prompt)
        pictures.append(place_of[question.image_id])
        keys.append((question.image_id, question.question_id))

    if rows:
        draws = row_draws(keys, params)
        new_ids = answer_prompts(backbone, tokens, pictures, prompts, draws, params, batch_size)
        for row, ids in zip(rows, new_ids, strict=True):
            text = backbone.tokenizer.decode(ids, skip_special_tokens=True)
            outcomes[row] = Answer(text.strip(), len(ids))
    return [outcomes[row] for row in range(len(questions))]


def _too_long(question: Question, num_tokens: int, longest: int) -> Reject:
    detail = (
        f"the prompt takes {num_tokens} tokens; with the longest answer behind it the model reads "
        f"{longest}"
    )
    return Reject(question.row, question.question_id, question.image_id, "too_long", detail)

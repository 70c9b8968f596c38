"""A job in pieces, each of questions about neighbouring pictures, and the answers to one piece."""

from collections.abc import Callable, Iterator, Mapping, Sequence

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
    """Questions about the same picture side by side, pictures in the order of the store; cut by count alone."""
    order = sorted(
        range(len(questions)), key=lambda place: (picture_order[questions[place].image_id], place)
    )
    for start in range(0, len(order), rows_per_piece):
        yield [Asked(place, questions[place]) for place in order[start : start + rows_per_piece]]


def answer_piece(
    backbone: Backbone,
    read_tokens: Callable[[Sequence[str]], np.ndarray],
    questions: Sequence[Question],
    params: DecodingParams,
    batch_size: int,
) -> list[Answer | Reject]:
    """The answer to each question, or why there is none; the adapter of the generation pass must be merged.

    read_tokens: picture ids -> (pictures, summary tokens, dim), as `TokenStore.tokens` does.
    """
    image_ids = list(dict.fromkeys(question.image_id for question in questions))
    place_of = {image_id: place for place, image_id in enumerate(image_ids)}
    tokens = torch.from_numpy(read_tokens(image_ids))
    texts = {question.question for question in questions}  # many are asked about several pictures
    prompt_of = {text: encode_prompt(backbone.chat, text, tokens.shape[1]) for text in texts}
    prompts = [prompt_of[question.question] for question in questions]
    longest = backbone.max_positions - params.max_new_tokens
    outcomes: list[Answer | Reject] = [
        _too_long(question, len(prompt), longest)
        for question, prompt in zip(questions, prompts, strict=True)
    ]
    rows = [row for row, prompt in enumerate(prompts) if len(prompt) <= longest]
    if not rows:
        return outcomes
    found = answer_prompts(
        backbone,
        tokens,
        [place_of[questions[row].image_id] for row in rows],
        [prompts[row] for row in rows],
        row_draws([(questions[row].image_id, questions[row].question_id) for row in rows], params),
        params,
        batch_size,
    )
    for row, new_ids in zip(rows, found, strict=True):
        text = backbone.tokenizer.decode(new_ids, skip_special_tokens=True)
        outcomes[row] = Answer(text.strip(), len(new_ids))
    return outcomes


def _too_long(question: Question, num_tokens: int, longest: int) -> Reject:
    detail = f"the prompt takes {num_tokens} tokens; with the longest answer behind it the model reads {longest}"
    return Reject(question.row, question.question_id, question.image_id, "too_long", detail)

"""Prompts about stored pictures, answered in batches; their common beginning is read once.

All prompts of a job begin alike: the chat before the picture, the picture, and perhaps the first
words of the question. The part before the picture is read once; the part from the picture to where
the prompts differ, once per picture; the rest, once per prompt.
"""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from components.answering.decoding import DecodingParams, chooser
from components.model.backbone import Backbone
from components.model.cached_reading import Read, nothing_read, read_on, select
from components.model.generation import left_pad, write_answers
from components.model.segments import text_segment


@torch.inference_mode()
def answer_prompts(
    backbone: Backbone,
    summary_tokens: Tensor,
    pictures: Sequence[int],
    prompts: Sequence[Sequence[int]],
    draws: Tensor,
    params: DecodingParams,
    batch_size: int,
) -> list[list[int]]:
    """Return the new token ids of the answer to each prompt, without the end token.

    summary_tokens: (pictures, summary tokens, dim); pictures: the picture of each prompt, by its
    place; prompts: ids with their placeholders; draws: (prompts, max_new_tokens); batch_size:
    prompts. The cache of all pictures is held. The adapter of the generation pass must be merged.
    """
    # the common beginning, once per picture
    summary_tokens = summary_tokens.to(backbone.device)
    shared = 0 if has_windows(backbone) else shared_length(prompts, backbone.image_token_id)
    start = nothing_read(backbone)
    if shared:
        start = read_pictures(backbone, summary_tokens, prompts[0][:shared])

    # like lengths together, so that little is padded
    answers: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        rests = [prompts[row][shared:] for row in rows]
        ids, mask = left_pad(rests, backbone.device)
        places = torch.tensor([pictures[row] for row in rows], device=backbone.device)

        # the rest of each prompt goes on from the cache of its picture
        if shared:
            read, embeddings = select(start, places), backbone.embed(ids)
        else:
            read = nothing_read(backbone, len(rows))
            embeddings = backbone.embed_chat(ids, summary_tokens[places])
        hidden, read = read_on(backbone, read, text_segment(embeddings, mask), num_kept=1)

        choose = chooser(draws[rows].to(backbone.device), params)
        found = write_answers(backbone, read, hidden[:, 0], params.max_new_tokens, choose)
        for row, tokens in zip(rows, found, strict=True):
            answers[row] = tokens
    return answers


def has_windows(backbone: Backbone) -> bool:
    """Return whether a layer attends to a sliding window.

    Padding behind the common beginning would take up room in the window.
    """
    return any(nothing_read(backbone).cache.is_sliding)


def shared_length(prompts: Sequence[Sequence[int]], image_token_id: int) -> int:
    """Count the tokens that all prompts begin with; each has at least one more.

    Returns 0 if the picture comes later.
    """
    alike = 0
    for tokens in zip(*prompts, strict=False):
        if len(set(tokens)) > 1:
            break
        alike += 1

    shared = min(alike, min(map(len, prompts)) - 1)
    if any(image_token_id in prompt[shared:] for prompt in prompts):
        return 0
    return shared


def read_pictures(backbone: Backbone, summary_tokens: Tensor, ids: Sequence[int]) -> Read:
    """Read the beginning of all prompts, `ids`, with each picture at the placeholders."""
    # up to the picture, once for all
    lead = list(takewhile(lambda token: token != backbone.image_token_id, ids))
    read = nothing_read(backbone)
    if lead:
        embeddings = backbone.embed(torch.tensor([lead], device=backbone.device))
        _, read = read_on(backbone, read, text_segment(embeddings))

    # from the picture on, with a copy of that cache for each picture
    num_pictures = len(summary_tokens)
    rest = torch.tensor([ids[len(lead) :]], device=backbone.device).expand(num_pictures, -1)
    every = torch.zeros(num_pictures, dtype=torch.long, device=backbone.device)
    embeddings = backbone.embed_chat(rest, summary_tokens)
    _, read = read_on(backbone, select(read, every), text_segment(embeddings))
    return read

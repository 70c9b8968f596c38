"""Pairs of texts in place of pictures and captions: questions with answers, and a caption.

E5-V (arXiv 2407.12580, §3.2) learns from natural-language inference: a premise, a sentence that it
entails, one that contradicts it. The curated rows have the like of it: questions with their answers
as premise, the caption of the same picture as what goes with it, and, if `texts.hard_negatives`
asks for them, the caption that is wrong by a word.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components import schema
from components.model.chat import Turn
from components.schema import IMAGE_PLACEHOLDER
from components.training.collate import TrainSample


def as_text_pair(sample: TrainSample) -> TrainSample:
    """Put a text in place of the picture of a sample."""
    premise = other_text(sample.conversation, sample.caption)
    return sample._replace(image=None, conversation=[], premise=premise)


def other_text(conversation: Sequence[Turn], caption: str | None) -> str:
    """Join questions and answers to one text, without those whose answer is the caption."""
    # the caption is the other side of the pair: its own question would give it away
    texts = []
    for question, answer in zip(conversation[::2], conversation[1::2], strict=True):
        if answer[schema.CONTENT] != caption:
            texts.append(question[schema.CONTENT].replace(IMAGE_PLACEHOLDER, "").strip())
            texts.append(answer[schema.CONTENT].strip())
    return " ".join(texts)


def has_other_text(rows: pa.RecordBatch) -> np.ndarray:
    """Flag the rows with a caption and an answer that says something else: (rows,) bool."""
    # all turns of all rows in one list, each with the row it belongs to
    conversations = rows[schema.CONVERSATION]
    turns, parents = pc.list_flatten(conversations), pc.list_parent_indices(conversations)
    is_answer = pc.equal(pc.struct_field(turns, schema.ROLE), schema.ASSISTANT)
    is_another = pc.not_equal(
        pc.struct_field(turns, schema.CONTENT), rows[schema.CAPTION].take(parents)
    )

    # without a caption the comparison is null
    counts = pc.fill_null(pc.and_(is_answer, is_another), False).to_numpy(zero_copy_only=False)
    return np.bincount(parents.to_numpy(), weights=counts, minlength=rows.num_rows) > 0

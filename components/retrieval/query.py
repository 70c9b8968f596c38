"""Text into the vector that is searched with: the compression pass over the text, averaged and normalised."""

import numpy as np
import torch

from components.model.chat import encode_text
from components.model.double_forward import DoubleForward


class QueryError(ValueError):
    """A query that cannot be searched with."""


def embed_text(model: DoubleForward, text: str) -> tuple[np.ndarray, int]:
    """The L2-normalised embedding (dim,) float32 of a text, and how many of its tokens did not fit the model and were
    cut.

    Names of special tokens in the text are plain text. Raises QueryError: nothing to search for, or text that is not
    Unicode.
    """
    input_ids = encode_text(model.backbone.tokenizer, checked_text(text))
    room = max_text_tokens(model)
    ids = torch.tensor([input_ids[:room]], device=model.backbone.device)
    with torch.inference_mode():
        embedding = model.embedding(model.compress_texts(ids, torch.ones_like(ids)))[0].cpu().numpy()
    if not np.isfinite(embedding).all():
        raise QueryError(f"the model gives no finite embedding for {text!r}; is the compressor trained?")
    return embedding, max(0, len(input_ids) - room)


def max_text_tokens(model: DoubleForward) -> int:
    """How many tokens of text fit the language model beside BOS, prompt and summary queries."""
    positions: int = model.backbone.max_positions
    return positions - 1 - model.prompt_ids.numel() - model.num_summary_tokens


def checked_text(text: str) -> str:
    """The text to search with, without surrounding space. Raises QueryError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueryError("the query is not valid Unicode text") from None
    if not text.strip():
        raise QueryError("the query is empty; say what to look for")
    return text.strip()

"""Text into what is searched with: the compression pass over it gives summary tokens, their mean the embedding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from components.methods.method import Method
from components.model.chat import encode_text
from components.model.generation import left_pad

TEXTS_PER_BATCH = 64
PICTURES_PER_BATCH = 64


class QueryError(ValueError):
    """A query that cannot be searched with."""


class EmbeddedTexts(NamedTuple):
    """Texts as the model sees them."""

    # (texts, summary_tokens, dim) float32; no tokens of a method that makes none of texts
    summary_tokens: np.ndarray
    embeddings: np.ndarray  # (texts, dim) float32, L2-normalised
    num_cut: list[int]  # tokens of each text that did not fit the model


def embed_text(model: Method, text: str) -> tuple[np.ndarray, int]:
    """The L2-normalised embedding (dim,) float32 of a text, and how many of its tokens did not fit the model and were
    cut. Raises QueryError.
    """
    found = embed_texts(model, [text])
    return found.embeddings[0], found.num_cut[0]


def embed_texts(model: Method, texts: Sequence[str]) -> EmbeddedTexts:
    """At least one text, in batches of like length. Names of special tokens in a text are plain text.

    Raises QueryError: nothing to search for, or text that is not Unicode.
    """
    ids = [encode_text(model.tokenizer, checked_text(text)) for text in texts]
    room = max_text_tokens(model)
    tokens: list[np.ndarray] = [np.empty(0)] * len(texts)
    embeddings: list[np.ndarray] = [np.empty(0)] * len(texts)
    for rows in _batches_of_like_length(ids):
        found, vectors = read_texts(model, [ids[row][:room] for row in rows])
        for row, summary_tokens, vector in zip(rows, found, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise QueryError(
                    f"the model gives no finite embedding for {texts[row]!r}; is the compressor trained?"
                )
            tokens[row], embeddings[row] = summary_tokens, vector
    return EmbeddedTexts(
        np.stack(tokens), np.stack(embeddings), [max(0, len(row) - room) for row in ids]
    )


@torch.inference_mode()
def read_texts(model: Method, ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Summary tokens (texts, summary tokens, dim) and embeddings (texts, dim), float32, from reading texts once.

    No tokens, (texts, 0, dim), of a method whose embedding is not their mean.
    """
    inputs = left_pad(ids, model.device)
    if not model.embeds_by_mean:
        return np.empty((len(ids), 0, model.dim), np.float32), model.embed_texts(
            *inputs
        ).cpu().numpy()
    found = model.compress_texts(*inputs)
    return found.float().cpu().numpy(), model.embedding(found).cpu().numpy()


def embed_stored(model: Method, summary_tokens: np.ndarray) -> np.ndarray:
    """What stored tokens (pictures, summary tokens, dim) are searched for: (pictures, dim) float32, L2-normalised."""
    parts = [np.empty((0, model.dim), np.float32)]
    for start in range(0, len(summary_tokens), PICTURES_PER_BATCH):
        tokens = torch.from_numpy(summary_tokens[start : start + PICTURES_PER_BATCH]).to(
            model.device
        )
        with torch.inference_mode():
            parts.append(model.embed_pictures(tokens).cpu().numpy())
    return np.concatenate(parts)


def max_text_tokens(model: Method) -> int:
    """How many tokens of text fit the language model beside what is read with it."""
    return model.max_positions - model.num_tokens_around_text


def checked_text(text: str) -> str:
    """The text to search with, without surrounding space. Raises QueryError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise QueryError("the query is not valid Unicode text") from None
    if not text.strip():
        raise QueryError("the query is empty; say what to look for")
    return text.strip()


def _batches_of_like_length(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), row))
    for start in range(0, len(order), TEXTS_PER_BATCH):
        yield order[start : start + TEXTS_PER_BATCH]

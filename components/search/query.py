"""Embeddings of texts and of stored pictures.

The compression pass over a text gives summary tokens, as over a picture; their mean is the
embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from components.methods.catalogue import method_class
from components.methods.method import Method
from components.methods.method_settings import FWD2BOT
from components.model.chat import encode_text
from components.model.generation import left_pad
from components.store.provenance import Provenance, method_of
from components.store.store_reader import normalise

TEXTS_PER_BATCH = 64
PICTURES_PER_BATCH = 64

# summary tokens (pictures, summary tokens, dim) -> embeddings (pictures, dim)
Embedder = Callable[[np.ndarray], np.ndarray]


class QueryError(ValueError):
    """A query that cannot be searched with."""


class EmbeddedTexts(NamedTuple):
    """Summary tokens and embeddings of texts."""

    # (texts, summary_tokens, dim) float32; no tokens if the method makes none of texts
    summary_tokens: np.ndarray
    embeddings: np.ndarray  # (texts, dim) float32, L2-normalised
    num_cut: list[int]  # tokens of each text that did not fit the model


def embed_text(model: Method, text: str) -> tuple[np.ndarray, int]:
    """Return the embedding of a text (dim,) float32, L2-normalised, and the number of cut tokens.

    Tokens that do not fit the model are cut. Raises QueryError.
    """
    found = embed_texts(model, [text])
    return found.embeddings[0], found.num_cut[0]


def embed_texts(model: Method, texts: Sequence[str]) -> EmbeddedTexts:
    """Embed texts, one at least, in batches of like length.

    Names of special tokens in a text are plain text. Raises QueryError: nothing to search for, or
    text that is not Unicode.
    """
    ids = [encode_text(model.tokenizer, checked_text(text)) for text in texts]
    room = max_text_tokens(model)
    tokens: list[np.ndarray] = [np.empty(0)] * len(texts)
    embeddings: list[np.ndarray] = [np.empty(0)] * len(texts)

    # like lengths, so that little is padded; every text gets back to its own place
    for rows in _batches_of_like_length(ids):
        batch = [ids[row][:room] for row in rows]
        found, vectors = read_texts(model, batch)
        for row, summary_tokens, vector in zip(rows, found, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise QueryError(
                    f"the model gives no finite embedding for {texts[row]!r}; "
                    "is the compressor trained?"
                )
            tokens[row], embeddings[row] = summary_tokens, vector

    num_cut = [max(0, len(row) - room) for row in ids]
    return EmbeddedTexts(np.stack(tokens), np.stack(embeddings), num_cut)


@torch.inference_mode()
def read_texts(model: Method, ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Read texts once: summary tokens (texts, summary tokens, dim), embeddings (texts, dim).

    Both are float32. A method whose embedding is not the mean gives no tokens: (texts, 0, dim).
    """
    inputs = left_pad(ids, model.device)
    if not model.embeds_by_mean:
        no_tokens = np.empty((len(ids), 0, model.dim), np.float32)
        return no_tokens, model.embed_texts(*inputs).cpu().numpy()
    found = model.compress_texts(*inputs)
    return found.float().cpu().numpy(), model.embedding(found).cpu().numpy()


def embedder_of(provenance: Provenance, load_model: Callable[[], Method]) -> Embedder:
    """Return the function that embeds stored tokens; only some methods need the model."""
    if method_class(method_of(provenance) or FWD2BOT).embeds_by_mean:
        return mean_embeddings
    return partial(embed_stored, load_model())


def mean_embeddings(summary_tokens: np.ndarray) -> np.ndarray:
    """Return L2-normalised means: (pictures, summary tokens, dim) -> (pictures, dim)."""
    return normalise(summary_tokens.mean(axis=1))


def embed_stored(model: Method, summary_tokens: np.ndarray) -> np.ndarray:
    """Embed stored tokens (pictures, summary tokens, dim): (pictures, dim) float32, of length 1."""
    parts = [np.empty((0, model.dim), np.float32)]
    for start in range(0, len(summary_tokens), PICTURES_PER_BATCH):
        batch = torch.from_numpy(summary_tokens[start : start + PICTURES_PER_BATCH])
        with torch.inference_mode():
            parts.append(model.embed_pictures(batch.to(model.device)).cpu().numpy())
    return np.concatenate(parts)


def max_text_tokens(model: Method) -> int:
    """Return how many tokens of a text fit the language model beside what is read with it."""
    return model.max_positions - model.num_tokens_around_text


def checked_text(text: str) -> str:
    """Return the text to search with, without surrounding space. Raises QueryError."""
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

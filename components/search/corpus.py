"""Search of a corpus: the nearest pictures by embedding, and their order by MaxSim if wanted."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from components import schema
from components.methods.method import Method
from components.search.index import EmbeddingIndex, Hit
from components.search.index_folder import PICTURES, open_index
from components.search.late_interaction import rerank
from components.search.query import Embedder, embed_texts
from components.search.vectors import in_memory
from components.store.provenance import Provenance, StoreError, differences
from components.store.store_reader import StoreReader, UnknownImageError


class Corpus(NamedTuple):
    """A corpus that can be searched."""

    provenance: Provenance
    pictures: pa.Table  # PICTURES
    embeddings: EmbeddingIndex
    stores: list[Path]  # where the tokens are


class MaxSim(NamedTuple):
    """Reranking of the nearest pictures, by the tokens in their stores."""

    num_pictures: int
    stores: list[StoreReader]


class Wanted(NamedTuple):
    """Hits to return for every query."""

    k: int
    among: np.ndarray | None  # sorted row numbers of the pictures that count; None: all
    maxsim: MaxSim | None


class TextHits(NamedTuple):
    """Hits of texts, best first, and how many tokens of each text did not fit the model."""

    hits: list[list[Hit]]
    num_cut: list[int]


def corpus_of_store(store: StoreReader, embed: Embedder) -> Corpus:
    """Read a store and embed its pictures, all into memory. Raises StoreError."""
    tables = [PICTURES.empty_table()]
    embeddings = [np.empty((0, store.provenance.dim), np.float32)]
    for rows in store.iter_batches():
        tables.append(pa.table([rows.image_ids, rows.widths, rows.heights], schema=PICTURES))
        embeddings.append(embed(rows.summary_tokens))

    pictures = pa.concat_tables(tables)
    image_ids = pictures[schema.IMAGE_ID].to_pylist()
    index = EmbeddingIndex(image_ids, in_memory(np.concatenate(embeddings)))
    return Corpus(store.provenance, pictures, index, [store.folder])


def corpus_of_index(folder: Path) -> Corpus:
    """Open an index that `index build` wrote. Raises IndexFolderError."""
    manifest, pictures, embeddings = open_index(folder)
    stores = sorted({Path(source.store) for source in manifest.sources})
    return Corpus(Provenance.model_validate(manifest.provenance), pictures, embeddings, stores)


def search_texts(corpus: Corpus, model: Method, texts: Sequence[str], wanted: Wanted) -> TextHits:
    """Find the pictures nearest to each text. Raises ValueError."""
    if wanted.maxsim and not model.embeds_by_mean:
        raise ValueError(
            f"--maxsim: {model.chosen.name} makes no summary tokens of a text; leave it out"
        )
    queries = embed_texts(model, texts)
    hits = find(corpus, queries.embeddings, queries.summary_tokens, wanted)
    return TextHits(hits, queries.num_cut)


def search_like(corpus: Corpus, image_id: str, wanted: Wanted) -> list[Hit]:
    """Find the pictures nearest to one of the corpus, without itself. Raises ValueError."""
    image_ids = corpus.embeddings.image_ids
    if image_id not in image_ids:
        raise UnknownImageError(f"--like {image_id}: no such picture among {len(corpus.pictures)}")

    embedding = corpus.embeddings.vectors.take(np.array([image_ids.index(image_id)]))
    tokens = None if wanted.maxsim is None else tokens_of(wanted.maxsim.stores, [image_id])

    # one more, since the picture itself is among the nearest
    hits = find(corpus, embedding, tokens, wanted._replace(k=wanted.k + 1))[0]
    return [hit for hit in hits if hit.image_id != image_id][: wanted.k]


def find(
    corpus: Corpus, embeddings: np.ndarray, query_tokens: np.ndarray | None, wanted: Wanted
) -> list[list[Hit]]:
    """Find the hits of queries, best first.

    Args: embeddings (queries, dim); query_tokens (queries, tokens, dim), which MaxSim needs.
    """
    if wanted.maxsim is None or query_tokens is None:
        return corpus.embeddings.search_batch(embeddings, wanted.k, wanted.among)

    # tokens are read for the nearest pictures only: each takes a read of its store
    num_pictures = max(wanted.k, wanted.maxsim.num_pictures)
    nearest = corpus.embeddings.search_batch(embeddings, num_pictures, wanted.among)
    reranked = []
    for hits, tokens in zip(nearest, query_tokens, strict=True):
        image_ids = [hit.image_id for hit in hits]
        picture_tokens = tokens_of(wanted.maxsim.stores, image_ids)
        reranked.append(rerank(image_ids, picture_tokens, tokens, wanted.k))
    return reranked


def open_maxsim(corpus: Corpus, num_pictures: int) -> MaxSim:
    """Open the stores that tokens are read from. Raises StoreError for one that was not indexed."""
    stores = [StoreReader.open(folder) for folder in corpus.stores]
    for store in stores:
        if differing := differences(corpus.provenance, store.provenance):
            raise StoreError(
                f"{store.folder}: is not what was indexed: {'; '.join(differing)}; "
                "build the index again"
            )
    return MaxSim(num_pictures, stores)


def tokens_of(stores: Sequence[StoreReader], image_ids: Sequence[str]) -> np.ndarray:
    """Read tokens (pictures, summary tokens, dim) float32 from whichever store has each picture.

    Raises StoreError.
    """
    first = stores[0].provenance
    found = np.empty((len(image_ids), first.num_summary_tokens, first.dim), np.float32)
    is_missing = np.ones(len(image_ids), dtype=bool)

    # one read per store, whatever the order of the pictures
    for store in stores:
        is_here = np.array([image_id in store for image_id in image_ids])
        found[is_here] = store.tokens(list(compress(image_ids, is_here)))
        is_missing &= ~is_here

    if is_missing.any():
        names = ", ".join(str(store.folder) for store in stores)
        image_id = image_ids[int(is_missing.argmax())]
        raise StoreError(f"picture {image_id!r} of the index is not in {names}; build it again")
    return found

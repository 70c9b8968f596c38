"""Job `search`: find pictures of a compressed corpus by words or by example, from the stored tokens alone.

    python -m flows.search "a red circle left of a blue square"
    python -m flows.search --like IMAGE_ID --store data/compressed/test
    python -m flows.search "a red circle" --index data/index --metadata facts.parquet --where "licence = 'CC0'"
    python -m flows.search --queries queries.jsonl --output hits.parquet --index data/index --maxsim 100

Without `--index`, embeddings are read from the store and all are compared.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import typer

from components import schema
from components.files.outputs import check_apart, new_file
from components.files.storage import terminal_safe
from components.search.batches import (
    Query,
    check_output,
    is_results,
    read_queries,
    results_table,
    write_results,
)
from components.search.filters import matching_rows
from components.search.index import EmbeddingIndex, Hit
from components.search.index_folder import PICTURES, open_index
from components.search.late_interaction import rerank
from components.search.query import checked_text, embed_texts
from components.search.vectors import in_memory
from components.store.provenance import Provenance, StoreError, differences
from components.store.token_store import TokenStore, UnknownImageError
from flows.running.endings import ending
from flows.running.stored_corpus import (
    COMPRESSOR,
    STORE,
    BaseOption,
    CompressorOption,
    StoreOption,
    embedder_of,
    load_model_by,
    run_job,
)

QUERIES_AT_ONCE = 256  # whose tokens are in memory


class Corpus(NamedTuple):
    """What is searched."""

    provenance: Provenance
    pictures: pa.Table  # PICTURES
    embeddings: EmbeddingIndex
    stores: list[Path]  # where the tokens are


class MaxSim(NamedTuple):
    """How a second look orders the nearest anew."""

    num_pictures: int
    stores: list[TokenStore]


class Wanted(NamedTuple):
    """What is asked of every query."""

    k: int
    among: np.ndarray | None  # sorted row numbers of the pictures that count; None: all
    maxsim: MaxSim | None


def open_corpus(
    store: Path, index: Path | None, compressor: Path = COMPRESSOR, base: str | None = None
) -> Corpus:
    """An index if one is named, else the embeddings of a store. Raises StoreError, IndexFolderError."""
    if index is not None:
        manifest, pictures, embeddings = open_index(index)
        stores = sorted({Path(source.store) for source in manifest.sources})
        return Corpus(Provenance.model_validate(manifest.provenance), pictures, embeddings, stores)
    opened = TokenStore.open(store)
    embed = embedder_of(opened.provenance, compressor, base)
    tables, found = [PICTURES.empty_table()], [np.empty((0, opened.provenance.dim), np.float32)]
    for rows in opened.iter_batches():
        tables.append(pa.table([rows.image_ids, rows.widths, rows.heights], schema=PICTURES))
        found.append(embed(rows.summary_tokens))
    pictures = pa.concat_tables(tables)
    embeddings = EmbeddingIndex(
        pictures[schema.IMAGE_ID].to_pylist(), in_memory(np.concatenate(found))
    )
    return Corpus(opened.provenance, pictures, embeddings, [store])


def search_like(corpus: Corpus, image_id: str, wanted: Wanted) -> list[Hit]:
    """The pictures nearest to one of the corpus, which is itself left out. Raises ValueError."""
    if image_id not in corpus.embeddings.image_ids:
        raise UnknownImageError(f"--like {image_id}: no such picture among {len(corpus.pictures)}")
    row = np.array([corpus.embeddings.image_ids.index(image_id)])
    tokens = None if wanted.maxsim is None else tokens_of(wanted.maxsim.stores, [image_id])
    hits = find(
        corpus, corpus.embeddings.vectors.take(row), tokens, wanted._replace(k=wanted.k + 1)
    )[0]
    return [hit for hit in hits if hit.image_id != image_id][: wanted.k]


def search_texts(
    corpus: Corpus, compressor: Path, base: str | None, queries: Sequence[Query], wanted: Wanted
) -> list[list[Hit]]:
    """The pictures nearest to each text. Raises ValueError."""
    model = load_model_by(corpus.provenance, compressor, base)
    if wanted.maxsim and not model.embeds_by_mean:
        raise ValueError(
            f"--maxsim: {model.chosen.name} makes no summary tokens of a text; leave it out"
        )
    hits: list[list[Hit]] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        chunk = queries[start : start + QUERIES_AT_ONCE]
        texts = embed_texts(model, [query.text for query in chunk])
        hits += find(corpus, texts.embeddings, texts.summary_tokens, wanted)
        for query, num_cut in zip(chunk, texts.num_cut, strict=True):
            if num_cut:
                say(
                    f"the last {num_cut} tokens of query {query.query_id} do not fit the model and were left out"
                )
        if len(queries) > 1:
            say(f"{len(hits)}/{len(queries)} queries")
    return hits


def find(
    corpus: Corpus, embeddings: np.ndarray, query_tokens: np.ndarray | None, wanted: Wanted
) -> list[list[Hit]]:
    """The hits of queries with `embeddings` (queries, dim) and, for MaxSim, `query_tokens` (queries, tokens, dim)."""
    if wanted.maxsim is None or query_tokens is None:
        return corpus.embeddings.search_batch(embeddings, wanted.k, wanted.among)
    found = []
    num_pictures = max(wanted.k, wanted.maxsim.num_pictures)
    for hits, tokens in zip(
        corpus.embeddings.search_batch(embeddings, num_pictures, wanted.among),
        query_tokens,
        strict=True,
    ):
        image_ids = [hit.image_id for hit in hits]
        found.append(
            rerank(image_ids, tokens_of(wanted.maxsim.stores, image_ids), tokens, wanted.k)
        )
    return found


def open_maxsim(corpus: Corpus, num_pictures: int) -> MaxSim:
    """The stores that the tokens are read from. Raises StoreError when one is not the one that was indexed."""
    stores = [TokenStore.open(folder) for folder in corpus.stores]
    for store in stores:
        if differing := differences(corpus.provenance, store.provenance):
            raise StoreError(
                f"{store.folder}: is not what was indexed: {'; '.join(differing)}; build the index again"
            )
    return MaxSim(num_pictures, stores)


def tokens_of(stores: Sequence[TokenStore], image_ids: Sequence[str]) -> np.ndarray:
    """float32 summary tokens (pictures, summary tokens, dim) from whichever store has each. Raises StoreError."""
    first = stores[0].provenance
    found = np.empty((len(image_ids), first.num_summary_tokens, first.dim), np.float32)
    is_missing = np.ones(len(image_ids), dtype=bool)
    for store in stores:
        is_here = np.array([image_id in store for image_id in image_ids])
        found[is_here] = store.tokens(
            [image_ids[place] for place in np.flatnonzero(is_here).tolist()]
        )
        is_missing &= ~is_here
    if is_missing.any():
        names = ", ".join(str(store.folder) for store in stores)
        raise StoreError(
            f"picture {image_ids[int(is_missing.argmax())]!r} of the index is not in {names}; build it again"
        )
    return found


def show(hits: list[Hit]) -> str:
    """One line for each hit; ids with control characters cannot disturb the terminal."""
    lines = [
        f"{rank:4d}  {hit.score:7.4f}  {terminal_safe(hit.image_id)}"
        for rank, hit in enumerate(hits, start=1)
    ]
    return "\n".join(["rank    score  image_id", *lines])


def say(line: str) -> None:
    """To those who watch; results alone go to the standard output."""
    print(f"search: {line}", file=sys.stderr, flush=True)


@ending("search")
def main(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    like: Annotated[
        str | None, typer.Option(help="Look for pictures like this one of the corpus.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Many texts: a line each, or JSONL with `text`.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Their hits, .parquet or .jsonl.")] = None,
    k: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 10,
    index: Annotated[
        Path | None, typer.Option(help="Folder that `index build` wrote, instead of a store.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL condition on width, height and --metadata.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help=".parquet or .csv with a column image_id.")
    ] = None,
    maxsim: Annotated[
        int | None,
        typer.Option(help="Order so many of the nearest anew, by MaxSim of their tokens.", min=1),
    ] = None,
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Search a compressed corpus; prints the best pictures with their cosine similarity, or the sum of MaxSim."""

    def job() -> list[Hit]:
        check_options(text, like, queries, output, where, metadata)
        if output is None:
            return found()[1][0]
        read = [queries, metadata, index, None if index else store, compressor, base]
        with new_file(output, is_results, [place for place in read if place is not None]) as path:
            asked, hits = found()
            write_results(path, results_table(asked, hits), output.suffix)
        say(f"{output} holds the hits of {len(asked)} queries")
        return []

    def found() -> tuple[list[Query], list[list[Hit]]]:
        asked = (
            read_queries(queries)
            if queries
            else [Query("1", checked_text(text or ""))]
            if like is None
            else []
        )
        corpus = open_corpus(store, index, compressor, base)
        if output is not None:
            check_apart(output, corpus.stores)
        among = None if where is None else matching_rows(corpus.pictures, metadata, where)
        wanted = Wanted(k, among, None if maxsim is None else open_maxsim(corpus, maxsim))
        if like is not None:
            return asked, [search_like(corpus, like, wanted)]
        return asked, search_texts(corpus, compressor, base, asked, wanted)

    hits = run_job("search", job)
    if output is None:
        print(json.dumps([hit._asdict() for hit in hits]) if as_json else show(hits))


def check_options(
    text: str | None,
    like: str | None,
    queries: Path | None,
    output: Path | None,
    where: str | None,
    metadata: Path | None,
) -> None:
    """Raises ValueError for options that do not go together."""
    if sum(option is not None for option in (text, like, queries)) != 1:
        raise ValueError("give either words to search for, --like IMAGE_ID, or --queries FILE")
    if (queries is None) != (output is None):
        raise ValueError("--queries FILE and --output FILE go together")
    if output is not None:
        check_output(output)
    if metadata is not None and where is None:
        raise ValueError("--metadata says nothing without --where CONDITION")


if __name__ == "__main__":
    typer.run(main)

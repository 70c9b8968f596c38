"""Job `search`: find pictures of a compressed corpus by words or by example.

    fwd2bot search "a red circle left of a blue square"
    fwd2bot search --like IMAGE_ID --store data/compressed/test
    fwd2bot search "a red circle" --index data/index --metadata facts.parquet --where "year > 1999"
    fwd2bot search --queries queries.jsonl --output hits.parquet --index data/index --maxsim 100

Only stored tokens are read. Without `--index`, all pictures of the store are embedded and compared.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from components.compression.stored_model import load_model_of
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
from components.search.corpus import (
    Corpus,
    Wanted,
    corpus_of_index,
    corpus_of_store,
    open_maxsim,
    search_like,
    search_texts,
)
from components.search.filters import matching_rows
from components.search.index import Hit
from components.search.query import checked_text
from components.store.store_reader import StoreReader
from flows.running.places import COMPRESSOR
from flows.running.stored_corpus import embedder, quiet_libraries

QUERIES_AT_ONCE = 256  # their tokens are in memory


def main(
    text: str | None,
    like: str | None,
    queries: Path | None,
    output: Path | None,
    k: int,
    index: Path | None,
    where: str | None,
    metadata: Path | None,
    maxsim: int | None,
    store: Path,
    compressor: Path,
    base: str | None,
    as_json: bool,
) -> None:
    """Print the best pictures, or write the hits of many queries into a file."""
    quiet_libraries()
    check_options(text, like, queries, output, where, metadata)

    # many queries: the place of the output is checked before anything is read
    if queries is not None and output is not None:
        read = [queries, metadata, index or store, compressor, base]
        inputs = [place for place in read if place is not None]
        with new_file(output, is_results, inputs) as path:
            asked = read_queries(queries)
            corpus = open_corpus(store, index, compressor, base)
            check_apart(output, corpus.stores)
            wanted = open_wanted(corpus, k, where, metadata, maxsim)
            found = search_queries(corpus, compressor, base, asked, wanted)
            write_results(path, results_table(asked, found), output.suffix)
        say(f"{output} holds the hits of {len(asked)} queries")
        return

    # one query, or one picture: the text is checked before a corpus is opened, which takes its time
    asked = [Query("1", checked_text(text or ""))] if like is None else []
    corpus = open_corpus(store, index, compressor, base)
    wanted = open_wanted(corpus, k, where, metadata, maxsim)
    if like is None:
        hits = search_queries(corpus, compressor, base, asked, wanted)[0]
    else:
        hits = search_like(corpus, like, wanted)
    print(json.dumps(list(map(Hit._asdict, hits))) if as_json else show(hits))


def open_corpus(
    store: Path, index: Path | None, compressor: Path = COMPRESSOR, base: str | None = None
) -> Corpus:
    """Open an index if one is named, else embed a store. Raises StoreError, IndexFolderError."""
    if index is not None:
        return corpus_of_index(index)
    opened = StoreReader.open(store)
    return corpus_of_store(opened, embedder(opened.provenance, compressor, base))


def open_wanted(
    corpus: Corpus, k: int, where: str | None, metadata: Path | None, maxsim: int | None
) -> Wanted:
    """Look up the options of a search in a corpus. Raises FilterError, StoreError."""
    among = None if where is None else matching_rows(corpus.pictures, metadata, where)
    return Wanted(k, among, None if maxsim is None else open_maxsim(corpus, maxsim))


def search_queries(
    corpus: Corpus, compressor: Path, base: str | None, queries: Sequence[Query], wanted: Wanted
) -> list[list[Hit]]:
    """Find the pictures nearest to each query, and print progress. Raises ValueError."""
    model = load_model_of(corpus.provenance, compressor, base)
    hits: list[list[Hit]] = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        chunk = queries[start : start + QUERIES_AT_ONCE]
        texts = [query.text for query in chunk]
        found = search_texts(corpus, model, texts, wanted)
        hits += found.hits

        # a cut query was searched by its beginning alone
        for query, num_cut in zip(chunk, found.num_cut, strict=True):
            if num_cut:
                say(
                    f"the last {num_cut} tokens of query {query.query_id} do not fit the model "
                    "and were left out"
                )
        if len(queries) > 1:
            say(f"{len(hits)}/{len(queries)} queries")
    return hits


def show(hits: list[Hit]) -> str:
    """Return a line for each hit; ids with control characters cannot disturb the terminal."""
    lines = ["rank    score  image_id"]
    for rank, hit in enumerate(hits, start=1):
        lines.append(f"{rank:4d}  {hit.score:7.4f}  {terminal_safe(hit.image_id)}")
    return "\n".join(lines)


def say(line: str) -> None:
    """Print to stderr: stdout gets nothing but results."""
    print(f"search: {line}", file=sys.stderr, flush=True)


def check_options(
    text: str | None,
    like: str | None,
    queries: Path | None,
    output: Path | None,
    where: str | None,
    metadata: Path | None,
) -> None:
    """Raise ValueError for options that do not go together."""
    if (text, like, queries).count(None) != 2:
        raise ValueError("give either words to search for, --like IMAGE_ID, or --queries FILE")
    if (queries is None) != (output is None):
        raise ValueError("--queries FILE and --output FILE go together")
    if output is not None:
        check_output(output)
    if metadata is not None and where is None:
        raise ValueError("--metadata says nothing without --where CONDITION")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("search")

"""Costs and recall of an index: exact and approximate at a 7B's width; on the demo, MaxSim too.

    python -m benchmarks.search --json results.json
    python -m benchmarks.search --maxsim

Random unit vectors are the worst case: the nearest are hardly nearer than the rest. Clustered ones
(1000 centres, noise as long as a centre) are nearer to what a model gives. The plain way is a
product of matrices in numpy.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import torch
import typer

from components.compression.identity import find_base
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import read_question_set
from components.losses.late_interaction import directions, maxsim
from components.methods.checkpoint import load_compressor
from components.params import load_params
from components.search.building import Source, index_file, store_codes
from components.search.index import EmbeddingIndex
from components.search.index_folder import PICTURES, open_vectors
from components.search.query import embed_texts
from components.store.store_reader import StoreReader, normalise
from fwd2bot.commands.corpus import CANDIDATES

CURATED = Path("data/curated")
COMPRESSOR = Path("models/compressor")
STORE = Path("data/compressed/test")
CENTRES, QUERIES, SINGLE_QUERIES, K = 1000, 64, 16, 10
ROWS_PER_FILE = 4096


class Row(NamedTuple):
    """Line of the table."""

    vectors: str
    kind: str
    build_seconds: float
    disk_bytes: int
    memory_bytes: int  # that must be there; what is memory-mapped may be
    queries_per_second: float  # one at a time
    queries_per_second_of_64: float
    recall: float  # at 10


def main(
    rows: Annotated[int, typer.Option(help="Pictures.")] = 100_000,
    dim: Annotated[int, typer.Option(help="Numbers of an embedding.")] = 4096,
    maxsim: Annotated[bool, typer.Option("--maxsim", help="The demo's captions instead.")] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure on one thread."""
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    found: Sequence[NamedTuple] = compare_rankings() if maxsim else list(measure_all(rows, dim))
    if json_path:
        json_path.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n")


def measure_all(num_rows: int, dim: int) -> Iterator[Row]:
    """Measure plain, exact and approximate search on both worlds."""
    for name, world in (("random", random_world), ("clustered", clustered_world)):
        vectors = world(num_rows + QUERIES, dim)
        queries, vectors = vectors[:QUERIES].copy(), vectors[QUERIES:]
        with tempfile.TemporaryDirectory(dir=".cache") as folder:
            for row in measure(name, vectors, queries, Path(folder)):
                print(row._asdict(), flush=True)
                yield row


def measure(name: str, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> Iterator[Row]:
    """Measure one world: a row for each kind of search."""
    image_ids = [str(row) for row in range(len(vectors))]
    truth = plain_search(vectors, queries)
    singles, batch = timed(lambda batch: plain_search(vectors, batch), queries)
    yield Row(name, "numpy", 0, vectors.nbytes, vectors.nbytes, singles, batch, 1)

    # Exact: a product of matrices too, on a memory-mapped file.
    start = time.perf_counter()
    sources = [index_file(folder, source) for source in sources_of(vectors)]
    written = time.perf_counter() - start
    mapped = open_vectors(folder, tuple(sources), vectors.shape[1])
    exact = EmbeddingIndex(image_ids, mapped)
    disk = sum(source.vectors.bytes for source in sources)
    yield searched(Row(name, "exact", written, disk, 0, 0, 0, 0), exact, queries, truth)

    # Approximate: codes in memory find candidates, which the exact vectors rank.
    start = time.perf_counter()
    file, codes = store_codes(folder, None, mapped, CANDIDATES)
    seconds = written + time.perf_counter() - start
    approximate = EmbeddingIndex(image_ids, mapped, codes)
    row = Row(name, "approximate", seconds, disk + file.bytes, file.bytes, 0, 0, 0)
    yield searched(row, approximate, queries, truth)


def searched(row: Row, index: EmbeddingIndex, queries: np.ndarray, truth: np.ndarray) -> Row:
    """Fill in the rates and the recall of a row."""
    singles, batch = timed(lambda batch: index.search_batch(batch, K), queries)
    shared = []
    for hits, best in zip(index.search_batch(queries, K), truth, strict=True):
        found = {int(hit.image_id) for hit in hits}
        shared.append(len(found & set(best)) / K)
    return row._replace(
        queries_per_second=singles, queries_per_second_of_64=batch, recall=float(np.mean(shared))
    )


def timed(search: Callable[[np.ndarray], object], queries: np.ndarray) -> tuple[float, float]:
    """Time queries per second, one at a time and all together, after one that is not counted."""
    search(queries[:1])
    start = time.perf_counter()
    for query in queries[:SINGLE_QUERIES]:
        search(query[None])
    singles = SINGLE_QUERIES / (time.perf_counter() - start)
    start = time.perf_counter()
    search(queries)
    return singles, len(queries) / (time.perf_counter() - start)


def plain_search(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Find the rows of the largest inner products: (queries, K)."""
    return np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K]


def sources_of(vectors: np.ndarray) -> list[Source]:
    """Return sources as if a store had been read."""
    sources = []
    for number, start in enumerate(range(0, len(vectors), ROWS_PER_FILE)):
        part = vectors[start : start + ROWS_PER_FILE]
        sha256, read = f"{number:064d}"[::-1], partial(np.asarray, part)
        sources.append(Source("benchmark", str(number), sha256, len(part), _no_pictures, read))
    return sources


def random_world(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Draw unit vectors in all directions, (rows, dim) float32."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def clustered_world(rows: int, dim: int) -> np.ndarray:
    """Draw unit vectors around CENTRES, (rows, dim) float32: cosine 0.5 within a cluster."""
    vectors, centres = random_world(rows, dim), random_world(CENTRES, dim, seed=1)
    owners = np.random.default_rng(2).integers(0, CENTRES, rows)
    for start in range(0, rows, ROWS_PER_FILE):
        some = slice(start, start + ROWS_PER_FILE)
        vectors[some] += centres[owners[some]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


class Ranking(NamedTuple):
    """R@1 of one way to rank all pictures and captions of the demo's test split."""

    ranking: str
    image_to_text: float
    text_to_image: float


def compare_rankings() -> list[Ranking]:
    """Rank by the cosine of the means, by MaxSim, and by both: MaxSim of the nearest."""
    params = load_params("evaluate", EvaluateParams)
    question_set, store = read_question_set(CURATED, params.split), StoreReader.open(STORE)
    tokens = store.tokens(store.ids)
    base, cpu = find_base(COMPRESSOR, None), torch.device("cpu")
    model = load_compressor(COMPRESSOR, base, cpu, torch.float32, tokens.shape[1])

    # Every caption with the row of its picture.
    captions: list[str] = []
    rows: list[int] = []
    for row, image_id in enumerate(store.ids):
        some = question_set.captions[image_id][: params.captions_per_picture]
        captions += some
        rows += [row] * len(some)
    owners, texts = np.array(rows), embed_texts(model, captions)

    # Similarities: of means, and of all pairs of tokens with either side as the query.
    cosines = normalise(tokens.mean(axis=1)) @ texts.embeddings.T  # (pictures, captions)
    of_captions = directions(torch.from_numpy(texts.summary_tokens))
    of_pictures = directions(torch.from_numpy(tokens))
    by_caption = maxsim(of_captions, of_pictures).T.numpy()
    by_picture = maxsim(of_pictures, of_captions).numpy()
    both = by_picture + by_caption
    rankings = [
        ranking("mean", cosines, cosines, owners),
        ranking("MaxSim by the query's tokens", by_picture, by_caption, owners),
        ranking("MaxSim in both directions", both, both, owners),
    ]

    # Those alone that the mean ranks first.
    for nearest in (10, 100):
        pictures = np.where(ranks(cosines) < nearest, both, -np.inf)
        places = ranks(cosines.T).T
        captions_ = np.where(places < nearest, both, -np.inf)
        rankings.append(ranking(f"MaxSim of the nearest {nearest}", pictures, captions_, owners))
    return rankings


def ranking(
    name: str, by_picture: np.ndarray, by_caption: np.ndarray, owners: np.ndarray
) -> Ranking:
    """Score similarities (pictures, captions), with the picture and with the caption as query."""
    found = owners[by_picture.argmax(axis=1)] == np.arange(len(by_picture))
    row = Ranking(name, float(found.mean()), float((by_caption.argmax(axis=0) == owners).mean()))
    print(row._asdict(), flush=True)
    return row


def ranks(similarities: np.ndarray) -> np.ndarray:
    """Return the place, from 0, of each number in its row."""
    return (-similarities).argsort(axis=1, kind="stable").argsort(axis=1)


def _no_pictures() -> pa.Table:
    return PICTURES.empty_table()


if __name__ == "__main__":
    typer.run(main)

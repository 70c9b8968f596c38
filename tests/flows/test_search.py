"""Search over a store and over its index says the same.

Filters, MaxSim and batches against plain loops.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from components.compression.identity import provenance_of
from components.search.batches import Query, read_queries, results_table
from components.search.corpus import (
    Corpus,
    MaxSim,
    Wanted,
    find,
    open_maxsim,
    search_like,
    tokens_of,
)
from components.search.index import Hit
from components.search.query import QueryError
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader, normalise
from flows.index import build
from flows.search import open_corpus
from fwd2bot.commands import app
from tests.components.compression.models import write_models
from tests.components.store.stores import random_rows, write_store

PARTS = [["a", "b", "c"], ["d", "e", "f", "g"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny compressor, two stores as if it had written them, and their indexes."""
    folder = tmp_path_factory.mktemp("search")
    provenance = provenance_of(write_models(folder), "float16", "float32")
    stores = [
        write_store(
            folder / f"store{part}", [random_rows(PARTS[part], part, provenance)], provenance
        )
        for part in range(2)
    ]
    build(stores, folder / "index", "approximate", 1000)
    build(stores[1:], folder / "second", "exact", 1)
    return folder


def run(folder: Path, *arguments: object) -> Result:
    options = ["--compressor", str(folder / "compressor"), *map(str, arguments)]
    return CliRunner().invoke(app, ["search", *options])


def plain(corpus: Corpus, query: np.ndarray) -> list[str]:
    vectors = normalise(
        tokens_of(open_maxsim(corpus, 1).stores, corpus.embeddings.image_ids).mean(axis=1)
    )
    return [corpus.embeddings.image_ids[row] for row in np.argsort(-(vectors @ query))]


def test_a_store_and_its_index_find_the_same(folder: Path) -> None:
    store, index = (
        open_corpus(folder / "store1", None),
        open_corpus(folder / "store0", folder / "second"),
    )
    assert store.pictures.equals(index.pictures)
    found = [search_like(corpus, "e", Wanted(3, None, None)) for corpus in (store, index)]
    assert found[0] == found[1]
    query = normalise(StoreReader.open(folder / "store1").tokens(["e"]).mean(axis=1))[0]
    assert [hit.image_id for hit in found[0]] == [one for one in plain(store, query) if one != "e"][
        :3
    ]


def test_maxsim_orders_the_nearest_by_their_tokens(folder: Path) -> None:
    corpus = open_corpus(folder / "store0", folder / "index")
    maxsim = open_maxsim(corpus, 4)
    tokens = (
        np.random.default_rng(0)
        .normal(size=(1, *tokens_of(maxsim.stores, ["a"]).shape[1:]))
        .astype(np.float32)
    )
    query = normalise(tokens.mean(axis=1))
    hits = find(corpus, query, tokens, Wanted(3, None, maxsim))[0]
    scores = {}
    for image_id in plain(corpus, query[0])[:4]:
        picture = tokens_of(maxsim.stores, [image_id])[0]
        cosines = [
            [token @ other / np.linalg.norm(token) / np.linalg.norm(other) for other in picture]
            for token in tokens[0]
        ]
        scores[image_id] = np.mean([*np.max(cosines, axis=1), *np.max(cosines, axis=0)])
    assert [hit.image_id for hit in hits] == sorted(scores, key=lambda image_id: -scores[image_id])[
        :3
    ]
    np.testing.assert_allclose(
        [hit.score for hit in hits], sorted(scores.values())[::-1][:3], rtol=1e-5
    )
    assert "b" not in [hit.image_id for hit in search_like(corpus, "b", Wanted(9, None, maxsim))]


def test_tokens_of_a_picture_that_no_store_has(folder: Path) -> None:
    first = StoreReader.open(folder / "store0")
    with pytest.raises(StoreError, match="'d' of the index is not in"):
        find(
            open_corpus(folder / "store1", None),
            np.eye(first.provenance.dim, dtype=np.float32)[3:4],
            np.zeros((1, 1, first.provenance.dim), np.float32),
            Wanted(4, np.array([0]), MaxSim(1, [first])),
        )


def test_batches_equal_single_searches_and_go_through_arrow(folder: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"text": "red", "query_id": "first"}\n{"text": "a blue square"}\n')
    common = ("--index", folder / "index", "--k", 3, "--where", "width > 0 AND image_id <> 'c'")
    for name in ("hits.parquet", "hits.jsonl"):
        done = run(folder, "--queries", queries, "--output", tmp_path / name, *common)
        assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "hits.parquet").to_pylist()
    assert [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()] == rows
    assert [row["query_id"] for row in rows] == ["first"] * 3 + ["2"] * 3
    assert [row["rank"] for row in rows] == [1, 2, 3] * 2
    single = json.loads(run(folder, "a blue square", *common, "--json").stdout)
    assert [row["image_id"] for row in rows[3:]] == [hit["image_id"] for hit in single]
    np.testing.assert_allclose(
        [row["score"] for row in rows[3:]], [hit["score"] for hit in single], atol=1e-4
    )
    assert "c" not in {row["image_id"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either words"),
        (("x", "--like", "a"), "give either words"),
        (("x", "--output", "y.parquet"), "go together"),
        (("--queries", "x", "--output", "y.csv"), "ends in neither"),
        (("x", "--metadata", "y.csv"), "nothing without --where"),
        (("--like", "nobody"), "--like nobody: no such picture among 3"),
        (("x", "--where", "widht > 1"), "the columns are image_id"),
    ],
)
def test_mistakes_end_with_one_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(folder, *arguments, "--store", folder / "store0")
    assert done.exit_code == 1
    assert done.output.startswith("search: ")
    assert message in done.output
    assert len(done.output.splitlines()) == 1


def test_files_of_queries(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("a red circle\nblå\n", encoding="utf-8")
    assert read_queries(path) == [Query("1", "a red circle"), Query("2", "blå")]
    path.write_bytes("one\u2028two\x85three\x0bfour\r\n".encode() + b"\xef\xbb\xbffive")
    assert [query.query_id for query in read_queries(path)] == ["1", "2"]
    assert read_queries(path)[0].text == "one\u2028two\x85three\x0bfour"
    lines = tmp_path / "queries.jsonl"
    lines.write_text(
        '{"text": "x\u2028y", "query_id": null}\n\n'
        '{"text": "z", "query_id": 18446744073709551617}\n'
    )
    assert read_queries(lines) == [Query("1", "x\u2028y"), Query("18446744073709551617", "z")]
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(QueryError, match="line 1: the query is not valid Unicode text"):
        read_queries(path)
    table = results_table([Query("1", "x"), Query("2", "y")], [[Hit("a", 0.5), Hit("b", 0.25)], []])
    assert table.to_pylist() == [
        {"query_id": "1", "query": "x", "rank": 1, "image_id": "a", "score": 0.5},
        {"query_id": "1", "query": "x", "rank": 2, "image_id": "b", "score": 0.25},
    ]
    for name, text, message in (
        ("a.txt", "one\n\nthree\n", "line 2: the query is empty"),
        ("b.txt", "", "holds no query"),
        ("c.jsonl", '{"text": "x"}\n{"words": "y"}\n', 'line 2: is not an object with a "text"'),
        ("d.jsonl", "{\n", "line 1"),
        (
            "e.jsonl",
            '{"text": "x"}\n{"text": "y", "query_id": "1"}\n',
            "line 2: the query_id '1' is that of line 1",
        ),
        (
            "f.jsonl",
            '{"text": "x", "query_id": true}\n',
            "line 1: the query_id is 'True'; write it as text",
        ),
        ("g.jsonl", '{"text": "x", "query_id": 1.5}\n', "line 1: the query_id is '1.5'"),
        ("h.jsonl", '{"text": "x", "query_id": ""}\n', "line 1: the query_id is ''"),
        ("i.jsonl", '{"text": "x", "text": "y"}\n', "line 1: the key 'text' is there twice"),
        ("j.jsonl", "[" * 100_000, "line 1: nested more than 100 levels"),
        ("k.jsonl", '{"text": "\\ud800"}\n', "line 1: the query is not valid Unicode"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(QueryError, match=message):
            read_queries(tmp_path / name)

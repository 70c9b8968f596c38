"""Index folders: built, extended and refused; a kill leaves the old one whole.

Brute force finds the same.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from components.files.locks import BusyError
from components.files.written import OutputError
from components.search.index_folder import changing, open_index, verify_index
from components.search.index_manifest import IndexFolderError
from components.store.fit import fit_directions
from components.store.provenance import StoreError
from components.store.recode import recoded_provenance
from components.store.store_reader import StoreReader
from flows.index import add, build
from fwd2bot.commands import app
from tests.components.store.stores import PROVENANCE, random_rows, write_store
from tests.forked import exit_code_of

IDS = [[f"{part}{row:02d}" for row in range(12)] for part in "abcd"]


def store(folder: Path, *parts: int) -> Path:
    return write_store(folder, [random_rows(IDS[part], part) for part in parts])


def brute_force(stores: list[Path], query: np.ndarray) -> list[str]:
    """All ids, best first, from the tokens as they are stored."""
    scores = {}
    for folder in stores:
        reader = StoreReader.open(folder)
        for image_id in reader.ids:
            mean = reader.tokens([image_id])[0].astype(np.float64).mean(axis=0)
            scores[image_id] = float(mean @ query / np.linalg.norm(mean))
    return sorted(scores, key=lambda image_id: (-scores[image_id], image_id))


def a_query(seed: int = 9) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=PROVENANCE.dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def found(folder: Path, k: int = 48) -> list[str]:
    return [hit.image_id for hit in open_index(folder).embeddings.search(a_query(), k)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_built_and_extended_index_finds_what_brute_force_finds(tmp_path: Path, kind: str) -> None:
    stores = [store(tmp_path / "one", 0, 1), store(tmp_path / "two", 2)]
    index = tmp_path / "index"
    assert build(stores[:1], index, kind, 1000).num_rows == 24  # type: ignore[arg-type]
    assert found(index) == brute_force(stores[:1], a_query())
    assert add(index, stores).num_rows == 36  # the files of the first are in already
    assert found(index) == brute_force(stores, a_query())
    assert found(index, 5) == brute_force(stores, a_query())[:5]
    verify_index(index)
    pictures = open_index(index).pictures
    assert pictures["image_id"].to_pylist() == [image_id for part in IDS[:3] for image_id in part]
    assert pictures["width"].to_pylist()[:12] == random_rows(IDS[0], 0).widths.tolist()


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_the_same_stores_give_the_same_bytes_built_at_once_or_twice_or_added(
    tmp_path: Path, kind: str
) -> None:
    stores = [store(tmp_path / "one", 0, 1), store(tmp_path / "two", 2)]
    build(stores, tmp_path / "x", kind, 7)  # type: ignore[arg-type]
    build(stores, tmp_path / "y", kind, 7)  # type: ignore[arg-type]
    assert files(tmp_path / "x") == files(tmp_path / "y")
    build(stores, tmp_path / "x", kind, 7)  # type: ignore[arg-type]
    assert files(tmp_path / "x") == files(tmp_path / "y")
    assert add(tmp_path / "x", stores) == build(stores, tmp_path / "y", kind, 7)  # type: ignore[arg-type]
    build(stores[1:], tmp_path / "x", "exact", 7)
    # vectors, pictures, manifest: nothing of the old one is left
    assert len(files(tmp_path / "x")) == 3


def test_a_store_in_codec_fitted_is_indexed_by_what_it_decodes_to(tmp_path: Path) -> None:
    parts = [random_rows(ids, seed) for seed, ids in enumerate(IDS)]
    fit = fit_directions(
        np.concatenate([part.summary_tokens.reshape(len(part.image_ids), -1) for part in parts]), 16
    )
    fitted = recoded_provenance(PROVENANCE, "fitted", PROVENANCE.num_summary_tokens, fit)
    stores = [
        write_store(tmp_path / "one", parts[:3], fitted, fit=fit),
        write_store(tmp_path / "two", parts[3:], fitted, fit=fit),
    ]
    build(stores[:1], tmp_path / "index", "exact", 1)
    add(tmp_path / "index", stores)
    assert found(tmp_path / "index") == brute_force(stores, a_query())


def test_recall_in_the_manifest_is_that_of_a_loop(tmp_path: Path) -> None:
    stores = [store(tmp_path / "one", 0, 1, 2, 3)]
    manifest = build(stores, tmp_path / "index", "approximate", 12)
    opened = open_index(tmp_path / "index").embeddings
    vectors, shares = opened.vectors.take(np.arange(48)), []
    for row in range(48):
        order = [
            other for other in np.argsort(-(vectors @ vectors[row]), kind="stable") if other != row
        ][:10]
        hits = opened.search(vectors[row], 11)
        shares.append(
            len({hit.image_id for hit in hits} & {opened.image_ids[other] for other in order}) / 10
        )
    assert manifest.recall is not None
    assert (manifest.recall.k, manifest.recall.queries) == (10, 48)
    assert manifest.recall.recall == pytest.approx(np.mean(shares))
    assert 0.3 < manifest.recall.recall < 1  # 12 candidates by 8 bits: some are missed


def test_a_filter_on_an_approximate_index_is_exact(tmp_path: Path) -> None:
    folder = store(tmp_path / "one", 0, 1, 2, 3)
    build([folder], tmp_path / "index", "approximate", 1)
    opened = open_index(tmp_path / "index").embeddings
    for allowed in (np.arange(0, 48, 5), np.array([7]), np.arange(48)):
        hits = opened.search(a_query(), 6, among=allowed)
        names = {opened.image_ids[row] for row in allowed}
        assert [hit.image_id for hit in hits] == [
            one for one in brute_force([folder], a_query()) if one in names
        ][:6]


def test_foreign_and_repeated_pictures_are_refused_and_change_nothing(tmp_path: Path) -> None:
    index = tmp_path / "index"
    build([store(tmp_path / "one", 0)], index, "exact", 1)
    before = files(index)
    other = PROVENANCE.model_copy(update={"model": {**PROVENANCE.model, "base_sha256": "d" * 64}})
    foreign = write_store(tmp_path / "foreign", [random_rows(IDS[1], 1)], other)
    with pytest.raises(StoreError, match=r"model\.base_sha256"):
        add(index, [foreign])
    with pytest.raises(StoreError, match=r"model\.base_sha256"):
        build([tmp_path / "one", foreign], tmp_path / "mixed", "exact", 1)
    assert not (tmp_path / "mixed").exists()
    again = write_store(tmp_path / "again", [random_rows(IDS[0][:2], 5)])
    with pytest.raises(IndexFolderError, match=r"2 pictures.*'a00', 'a01'"):
        add(index, [again])
    with pytest.raises(IndexFolderError, match="no picture"):
        build(
            [write_store(tmp_path / "none", [random_rows([], 0)])], tmp_path / "empty", "exact", 1
        )
    assert files(index) == before


@pytest.mark.parametrize("stem", ["vectors", "pictures", "codes"])
def test_damaged_files_are_refused(tmp_path: Path, stem: str) -> None:
    index = tmp_path / "index"
    build([store(tmp_path / "one", 0)], index, "approximate", 1)
    path = next(index.glob(f"{stem}-*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(
        IndexFolderError, match=f"{path.name}: has {len(whole) - 1} bytes instead of {len(whole)}"
    ):
        open_index(index)
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(IndexFolderError, match=f"{path.name}: has changed"):
        verify_index(index)
    if stem != "vectors":  # those are memory-mapped: opening does not read them
        with pytest.raises(IndexFolderError, match="has changed"):
            open_index(index)
    # a damaged file is not taken for a finished one
    build([tmp_path / "one"], index, "approximate", 1)
    verify_index(index)
    path.unlink()
    with pytest.raises(IndexFolderError, match="is missing"):
        open_index(index)


def test_folders_that_are_no_index_are_left_alone(tmp_path: Path) -> None:
    one = store(tmp_path / "one", 0)
    with pytest.raises(IndexFolderError, match="no finished index"):
        open_index(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="which this run needs"):
        build([one], one, "exact", 1)
    with pytest.raises(IndexFolderError, match="holds no index that can be changed"):
        build([one], store(tmp_path / "two", 1), "exact", 1)
    StoreReader.open(one).verify()
    build([one], tmp_path / "index", "exact", 1)
    path = tmp_path / "index" / "_manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(IndexFolderError, match="schema version 99"):
        open_index(tmp_path / "index")
    path.write_text("[]")
    with pytest.raises(IndexFolderError, match="schema version None"):
        open_index(tmp_path / "index")


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    one = store(tmp_path / "one", 0)
    with changing(tmp_path / "index"), pytest.raises(BusyError, match="another run"):
        build([one], tmp_path / "index", "exact", 1)


def add_and_be_killed(index: Path, more: Path, renames: int) -> None:
    """Add a store until so many files have their names; then this process is killed."""
    real, replaced = os.replace, 0

    def replace(*names: Any) -> None:
        nonlocal replaced
        if replaced == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        replaced += 1
        real(*names)

    os.replace = replace  # type: ignore[assignment]
    add(index, [more])


# of pictures, two files of vectors, codes, the manifest
@pytest.mark.parametrize("renames", [0, 2, 3, 4])
def test_killed_before_a_rename_the_old_index_is_whole_and_the_next_run_finishes(
    tmp_path: Path, renames: int
) -> None:
    index, more = tmp_path / "index", store(tmp_path / "more", 1, 2)
    build([store(tmp_path / "one", 0)], index, "approximate", 1000)
    old = found(index)
    assert exit_code_of(add_and_be_killed, index, more, renames) == -signal.SIGKILL
    assert found(index) == old
    verify_index(index)
    add(index, [more])
    assert found(index) == brute_force([tmp_path / "one", more], a_query())
    assert len(files(index)) == 6  # three of vectors, pictures, codes, manifest


def test_embeddings_that_a_killed_run_finished_are_not_made_again(tmp_path: Path) -> None:
    index, one = tmp_path / "index", store(tmp_path / "one", 0, 1)
    build([one], index, "exact", 1)
    (index / "_manifest.json").unlink()
    (index / "_begun.jsonl").write_text(
        "".join(f"{json.dumps(path.name)}\n" for path in index.iterdir()) + '"cut'
    )
    kept = next(index.glob("vectors-*"))
    os.utime(kept, (1, 1))
    build([one], index, "exact", 1)
    assert kept.stat().st_mtime == 1
    assert not (index / "_begun.jsonl").exists()


@pytest.mark.parametrize(
    "name", ["vectors-clip.npy", "pictures-2024.parquet", "codes-mine.faiss", ".notes.partial"]
)
def test_files_of_others_in_an_index_are_named_and_stay(tmp_path: Path, name: str) -> None:
    index, one = tmp_path / "index", store(tmp_path / "one", 0)
    build([one], index, "exact", 1)
    (index / name).write_text("mine")
    for change in (lambda: build([one], index, "exact", 1), lambda: add(index, [one])):
        with pytest.raises(IndexFolderError, match=name):
            change()
    assert (index / name).read_text() == "mine"
    verify_index(index)


def test_command_builds_says_how_far_it_is_and_names_what_is_wrong(tmp_path: Path) -> None:
    one = store(tmp_path / "one", 0, 1)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["index", *map(str, arguments)])

    done = run("build", one, tmp_path / "index", "--kind", "approximate")
    assert done.exit_code == 0, done.stderr
    assert "index: 24/24 pictures" in done.stdout
    assert "holds 24 pictures of 2 files, approximate" in done.stdout
    assert "recall@10 1.000" in done.stdout
    failed = run("add", tmp_path / "index", tmp_path / "nowhere")
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1)
    assert failed.stderr.startswith(f"index: {tmp_path / 'nowhere'}: there is no such folder")
    unknown = run("build", one, tmp_path / "x", "--kind", "hnsw")
    assert unknown.exit_code == 2
    assert "'hnsw' is not one of 'exact'" in unknown.stderr

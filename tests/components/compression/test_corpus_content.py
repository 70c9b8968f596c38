"""Content of a corpus: its hash is the same when it is read again, and every change shows."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from components.compression.corpus import Corpus, plan_shards
from components.compression.corpus_content import (
    is_remembered,
    look_at_files,
    note_content,
    note_states,
    noted_content,
    read_content,
    remember,
)
from components.compression.corpus_sources import list_corpus, read_pictures
from components.compression.picture_decoding import decode_batches
from tests.components.compression.models import LIMITS
from tests.components.compression.test_corpus_sources import write_table, write_tar
from tests.components.compression.test_picture_decoding import prepare
from tests.components.test_pictures import encoded, noise

MAX_BYTES = 100_000


def corpus_of(place: Path) -> Corpus:
    return list_corpus(str(place), (".jpg", ".png"))


def write_folder(root: Path) -> Path:
    root.mkdir()
    (root / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    (root / "b.png").write_bytes(encoded(noise()))
    (root / "broken.jpg").write_bytes(b"<html>")
    (root / "large.jpg").write_bytes(bytes(MAX_BYTES + 1))
    (root / "nowhere.jpg").symlink_to(root / "gone")
    return root


def write_list(root: Path) -> Path:
    write_folder(root)
    (root / "list.csv").write_text(
        "image,image_id\na.jpg,1\nb.png,2\nnowhere.jpg,3\nbroken.jpg,4\na\0.jpg,5\n"
    )
    return root / "list.csv"


def write_shards(root: Path) -> Path:
    root.mkdir()
    write_tar(root / "0.tar", ("a.jpg", encoded(noise(), "JPEG")), ("b.txt", b"alone"))
    write_tar(root / "1.tar", ("a.jpg", encoded(noise(), "JPEG")))
    return root


def write_parquet(root: Path) -> Path:
    root.mkdir()
    write_table(root / "t.parquet", ["x", "y", "z"], [encoded(noise()), None, b"no picture"])
    return root


CORPORA: dict[str, Callable[[Path], Path]] = {
    "folder": write_folder,
    "list": write_list,
    "tars": write_shards,
    "parquet": write_parquet,
}


def compressed(corpus: Corpus, work: Path, batch_size: int) -> str:
    """What a run notes while it decodes."""
    (work / "aside").mkdir(parents=True)
    shards = list(plan_shards(corpus, 2))
    for shard in shards:
        pictures = read_pictures(corpus.kind, corpus.root, shard, MAX_BYTES)
        batches = decode_batches(pictures, prepare, LIMITS, batch_size, work / "watch")
        note_content(work, shard.number, [digest for batch in batches for digest in batch.digests])
    return noted_content(work, shards)


@pytest.mark.parametrize("kind", CORPORA)
def test_what_was_decoded_is_what_is_read_again(kind: str, tmp_path: Path) -> None:
    corpus = corpus_of(CORPORA[kind](tmp_path / "corpus"))
    assert corpus.kind == kind
    noted = compressed(corpus, tmp_path / "one", 1)
    assert noted == compressed(corpus, tmp_path / "many", 3)
    assert noted == read_content(corpus, list(plan_shards(corpus, 2)), MAX_BYTES)
    elsewhere = corpus_of(CORPORA[kind](tmp_path / "clone"))
    assert noted == read_content(elsewhere, list(plan_shards(elsewhere, 2)), MAX_BYTES)


def touch(path: Path, content: bytes, time: int) -> None:
    """Other bytes, and the time of change that somebody wishes."""
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize("kind", ["folder", "list", "tars", "parquet"])
def test_a_change_that_keeps_size_and_time_is_not_overlooked(kind: str, tmp_path: Path) -> None:
    corpus = corpus_of(CORPORA[kind](tmp_path / "corpus"))
    before, states = (
        read_content(corpus, list(plan_shards(corpus, 2)), MAX_BYTES),
        look_at_files(corpus),
    )
    assert look_at_files(corpus) == states
    path = Path(corpus.root) / {"tars": "0.tar", "parquet": "t.parquet"}.get(kind, "a.jpg")
    content, time = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    at = content.index(b"no picture") if kind == "parquet" else content.index(b"\xff\xd8") + 100
    content[at] ^= 1
    touch(path, bytes(content), time)
    assert look_at_files(corpus).times == states.times
    assert look_at_files(corpus).exact != states.exact
    again = corpus_of(Path(corpus.root) / "list.csv" if kind == "list" else Path(corpus.root))
    assert read_content(again, list(plan_shards(again, 2)), MAX_BYTES) != before


def test_states_are_remembered_beside_the_store_only_if_they_tell(tmp_path: Path) -> None:
    corpus = corpus_of(write_folder(tmp_path / "corpus"))
    states, output, work = look_at_files(corpus), tmp_path / "store", tmp_path / "work"
    for folder in (output, work / "aside"):
        folder.mkdir(parents=True)
    (output / "_manifest.json").write_text("{}")
    assert not is_remembered(output, states)
    remember(output, states)
    assert is_remembered(output, states)
    assert os.listdir(output) == ["_manifest.json"]
    (output / "_manifest.json").write_text("{ }")  # another store
    assert not is_remembered(output, states)
    (tmp_path / ".store.fwd2bot.json").write_bytes(b"\xff")
    assert not is_remembered(output, states)
    assert note_states(work, states) == states
    assert note_states(work, states._replace(times="later")) == states  # the first run's count


def test_of_places_in_a_bucket_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\ns3://bucket/a.jpg\n")
    assert look_at_files(corpus_of(tmp_path / "list.csv")).exact is None


def test_linked_pictures_are_read_where_links_may_lead(tmp_path: Path) -> None:
    for folder in ("blobs", "linked", "copied"):
        (tmp_path / folder).mkdir()
    (tmp_path / "blobs" / "1").write_bytes(encoded(noise()))
    (tmp_path / "copied" / "a.png").write_bytes(encoded(noise()))
    (tmp_path / "linked" / "a.png").symlink_to(tmp_path / "blobs" / "1")
    hashes = []
    for folder in ("copied", "linked"):
        allowed = (str(tmp_path / "blobs"),)
        corpus = list_corpus(str(tmp_path / folder), (".png",), allowed)
        hashes.append(read_content(corpus, list(plan_shards(corpus, 2)), MAX_BYTES, allowed))
    assert hashes[0] == hashes[1]

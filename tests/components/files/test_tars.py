import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from components.files.tars import (
    ShardSample,
    read_shard,
    split_member_name,
)
from tests.components.files.bucket import bucket, upload  # noqa: F401

MAX_BYTES = 1000


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard_of(tmp_path: Path, members: list[tuple[str, bytes]]) -> list[ShardSample]:
    return list(read_shard(str(write_tar(tmp_path / "shard.tar", members)), MAX_BYTES))


def problems(samples: list[ShardSample]) -> list[str | None]:
    return [sample.problem.reason if sample.problem else None for sample in samples]


PAIR = [("a.jpg", b"picture"), ("a.txt", b"text"), ("b.jpg", b"picture 2"), ("b.txt", b"text 2")]


def test_read_shard_groups_members_by_key(tmp_path: Path) -> None:
    samples = shard_of(tmp_path, [*PAIR[:2], ("a.json", b"{}"), *PAIR[2:]])
    assert [(s.key, sorted(s.members)) for s in samples] == [
        ("a", ["jpg", "json", "txt"]),
        ("b", ["jpg", "txt"]),
    ]
    assert problems(samples) == [None, None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.v2.jpg", ("a", "v2.jpg")),
        ("x/y.JPG", ("x/y", "jpg")),
        ("README", ("README", "")),
        ("x.d/._a.jpg", ("x.d/", "_a.jpg")),
    ],
)
def test_split_member_name_follows_webdataset(name: str, expected: tuple[str, str]) -> None:
    assert split_member_name(name) == expected


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../../evil.jpg", b"1")], "unsafe_key"),
        ([("/etc/evil.jpg", b"1")], "unsafe_key"),
        ([("line\nfeed.jpg", b"1")], "unsafe_key"),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "duplicate_member"),
        ([("a.jpg", b"1" * (MAX_BYTES + 1))], "file_too_large"),
    ],
)
def test_read_shard_marks_the_bad_sample_and_keeps_the_next(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str
) -> None:
    assert problems(shard_of(tmp_path, [*members, *PAIR[2:]])) == [reason, None]


def test_read_shard_rejects_a_key_that_comes_back(tmp_path: Path) -> None:
    assert problems(shard_of(tmp_path, [*PAIR, *PAIR[:2]])) == [None, None, "non_contiguous_key"]


def test_read_shard_never_reads_links_or_pickles(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        pickled = tarfile.TarInfo("b.pkl")
        pickled.size = 4
        archive.addfile(pickled, io.BytesIO(b"evil"))
    linked, ignored = read_shard(str(path), MAX_BYTES)
    assert linked.problem is not None
    assert linked.problem.reason == "not_a_file"
    assert (linked.members, ignored.members) == ({}, {})


@pytest.mark.parametrize("keep_bytes", [512 * 7 + 100, 512 * 6 + 3, 512 * 6])
def test_read_shard_of_a_cut_tar_keeps_what_came_before_and_says_so(
    tmp_path: Path, keep_bytes: int
) -> None:
    path = write_tar(tmp_path / "shard.tar", [*PAIR, ("c.jpg", b"1"), ("c.txt", b"2")])
    # 6 blocks: exactly between two members, where tarfile is silent
    path.write_bytes(path.read_bytes()[:keep_bytes])
    samples = list(read_shard(str(path), MAX_BYTES))
    assert samples[0].members == {"jpg": b"picture", "txt": b"text"}
    assert samples[-1].problem is not None
    assert samples[-1].problem.reason == "unreadable_shard"
    assert samples[-1].key == "shard.tar"


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_read_shard_of_something_else_is_one_reject(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(content)
    assert problems(list(read_shard(str(path), MAX_BYTES))) == ["unreadable_shard"]


def test_read_shard_with_a_damaged_header_in_the_middle_says_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "shard.tar", PAIR)
    data = bytearray(path.read_bytes())
    data[512 * 4 + 10] ^= 0xFF  # in the header of the third member
    path.write_bytes(data)
    assert problems(list(read_shard(str(path), MAX_BYTES))) == [None, "unreadable_shard"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    data=st.data(), compress=st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress])
)
def test_no_damage_to_a_shard_lets_an_error_out(
    tmp_path: Path, data: st.DataObject, compress: Callable[[bytes], bytes]
) -> None:
    """Bytes are cut, changed or put in anywhere: the loss of the rest is a sample, too."""
    content = compress(write_tar(tmp_path / "whole.tar", PAIR).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        content = (
            content[:at]
            + data.draw(st.binary(max_size=4))
            + content[at + data.draw(st.integers(0, 600)) :]
        )
    path = tmp_path / "damaged.tar"
    path.write_bytes(content)
    samples = list(read_shard(str(path), MAX_BYTES))
    assert samples
    assert all(isinstance(sample, ShardSample) for sample in samples)


def test_a_disk_that_fails_is_no_fault_of_the_shard(
    tmp_path: Path, bucket: fs.S3FileSystem
) -> None:
    """The bucket goes away behind the first member: what was not read must not count as lost."""
    big = [*PAIR[:2], ("b.jpg", b"1" * MAX_BYTES * 3000), ("c.jpg", b"1")]
    write_tar(tmp_path / "shard.tar", big)
    samples = read_shard(f"{upload(tmp_path, bucket, 'tars')}/shard.tar", 10**7)
    assert next(samples).key == "a"
    bucket.delete_file("downloads/tars/shard.tar")
    with pytest.raises(OSError, match="reading stopped"):
        list(samples)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b/0.jpg", "a.b/1.jpg"], ["a.b/0", "a.b/1"]),
        (["photo.v2.jpg"], ["dotted_name"]),
        (["img.0001.jpg", "img.0001.txt", "img.0002.jpg", "img.0002.txt"], ["dotted_name"] * 2),
        (["1.5.jpg", "1.7.png", "2.5.jpg"], ["dotted_name"] * 3),
        (["a.jpg", "a.seg.png", "a.txt", "b.jpg"], ["dotted_name", "a", "b"]),
        (["a.meta.json", "a.jpg"], ["a"]),
    ],
)
def test_as_many_pictures_as_rows_and_rejects(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    samples = shard_of(tmp_path, [(name, b"1") for name in names])
    assert [
        sample.problem.reason if sample.problem else sample.key for sample in samples
    ] == expected


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard.tar")
    assert problems(list(read_shard(str(tmp_path / "shard.tar"), MAX_BYTES))) == [
        "unreadable_shard"
    ]

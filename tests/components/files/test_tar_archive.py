import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.files import unpacking
from components.files.tars import (
    MAX_KEY_BYTES,
    is_hidden,
    read_keys,
    read_shard,
    split_member_name,
)
from tests.components.files.test_tars import MAX_BYTES, PAIR, problems, write_tar

TWO = [("c.jpg", b"picture 3"), ("d.jpg", b"picture 4")]
PACKERS = [bytes, gzip.compress, bz2.compress, lzma.compress]


def tar_bytes(tmp_path: Path, members: list[tuple[str, bytes]]) -> bytes:
    return write_tar(tmp_path / "part.tar", members).read_bytes()


def ends(tmp_path: Path, content: bytes) -> list[str]:
    """Of each sample its key, or what is wrong with it."""
    path = tmp_path / "shard.tar"
    path.write_bytes(content)
    return [
        sample.problem.reason if sample.problem else sample.key
        for sample in read_shard(str(path), MAX_BYTES)
    ]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("between", [b"", bytes(512 * 7), bytes(10240)])
def test_archives_behind_one_another_are_read_on(
    tmp_path: Path, pack: Callable[[bytes], bytes], between: bytes
) -> None:
    first, second = tar_bytes(tmp_path, PAIR), tar_bytes(tmp_path, TWO)
    assert ends(tmp_path, pack(first + between + second)) == ["a", "b", "c", "d"]
    assert ends(
        tmp_path, pack(first) + (between if pack is not bytes else b"") + pack(second)
    ) == list("abcd")


@pytest.mark.parametrize("first", PACKERS)
@pytest.mark.parametrize("second", PACKERS)
def test_no_archive_is_passed_over(
    tmp_path: Path, first: Callable[[bytes], bytes], second: Callable[[bytes], bytes]
) -> None:
    content = first(tar_bytes(tmp_path, PAIR)) + second(tar_bytes(tmp_path, TWO))
    found = ends(tmp_path, content)
    assert found[:2] == ["a", "b"]
    assert found[2:] in (["c", "d"], ["unreadable_shard"])


@pytest.mark.parametrize("pack", PACKERS)
def test_padding_is_no_fault_and_garbage_is_one(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    content = tar_bytes(tmp_path, PAIR)
    assert ends(tmp_path, pack(content + bytes(300_000))) == ["a", "b"]
    assert ends(tmp_path, pack(content) + bytes(5120)) == ["a", "b"]
    assert ends(tmp_path, pack(content + b"garbage")) == ["a", "b", "unreadable_shard"]
    assert ends(tmp_path, pack(content) + b"garbage") == ["a", "b", "unreadable_shard"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:-2] + bytes([data[-2] ^ 1, data[-1]])]
)
def test_a_compressed_tar_that_is_damaged_at_its_end_says_so(
    tmp_path: Path, pack: Callable[[bytes], bytes], damage: Callable[[bytes], bytes]
) -> None:
    noise = random.Random(0).randbytes(900)
    members = [(f"{number:04d}.jpg", noise) for number in range(1500)]
    found = ends(tmp_path, damage(pack(tar_bytes(tmp_path, members))))
    assert found[-1] == "unreadable_shard"
    assert found[:-1] == sorted(found[:-1])
    assert pack is not gzip.compress or len(found) == 1501


def header(
    name: str = "w.jpg", kind: bytes = tarfile.REGTYPE, size: int | bytes = 0, prefix: bytes = b""
) -> bytes:
    """One block with the right checksum; `size` may be the raw field."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def records(*pairs: tuple[bytes, bytes], kind: bytes = tarfile.XHDTYPE) -> bytes:
    content = b""
    for key, value in pairs:
        length = len(key) + len(value) + 3
        while len(b"%d" % length) + len(key) + len(value) + 3 != length:
            length = len(b"%d" % length) + len(key) + len(value) + 3
        content += b"%d %s=%s\n" % (length, key, value)
    return header("pax", kind, len(content)) + content + bytes(-len(content) % 512)


HUGE = b"\x80" + b"\xff" * 11
NEGATIVE = b"\xff" * 11 + b"\x00"
WILD_HEADERS = {
    "a huge size": header(size=HUGE),
    "a size of 2 to the 62": header(size=b"\x80\0\0\0\x40" + bytes(7)),
    "a size below zero": header(size=NEGATIVE),
    "a size that is no number": header(size=b"99x99999999\0"),
    "a PAX size below zero": records((b"size", b"-512")) + header(),
    "a PAX size of 5000 digits": records((b"size", b"9" * 5000)) + header(),
    "a PAX size that is no number": records((b"size", b"many")) + header(),
    "a PAX record longer than its header": header("x", tarfile.XHDTYPE, 12)
    + b"99 path=bcde"
    + bytes(500)
    + header(),
    "a PAX record of no length": header("x", tarfile.XHDTYPE, 8)
    + b"0 path=b"
    + bytes(504)
    + header(),
    "only digits": header("x", tarfile.XHDTYPE, 1 << 20) + b"1" * (1 << 20) + header(),
    "a PAX header of 100 MB": header("x", tarfile.XHDTYPE, 10**8) + bytes(5000),
    "a long name of 8 GB": header("x", tarfile.GNUTYPE_LONGNAME, (1 << 33) - 1) + bytes(5000),
    "a long name below zero": header("x", tarfile.GNUTYPE_LONGNAME, NEGATIVE) + bytes(5000),
    "headers without end": records((b"path", b"x")) * 2000 + header(),
    "global headers without end": records((b"comment", b"x"), kind=tarfile.XGLTYPE) * 2000,
    "a map of holes that is no map": records((b"GNU.sparse.map", b"1,x")) + header(),
    "a map of holes of 10 to the 20": records(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"9" * 20),
    )
    + header(),
    "an old map of holes": header(kind=tarfile.GNUTYPE_SPARSE, size=10) + bytes(512),
    "a name that is not UTF-8": records((b"path", b"\xff\xfe.jpg")) + header(),
    "a name with half a surrogate": records((b"path", b"\xed\xa0\x80.jpg")) + header(),
    "a name of 100 kB": records((b"path", b"b" * 100_000 + b".jpg")) + header(),
}


@pytest.mark.parametrize("what", WILD_HEADERS)
def test_a_wild_header_costs_no_more_than_what_is_behind_it(tmp_path: Path, what: str) -> None:
    """What came before is kept; what is read can be stored: Unicode, of bounded length."""
    before, behind = tar_bytes(tmp_path, PAIR).rstrip(b"\0"), tar_bytes(tmp_path, TWO)
    before += bytes(-len(before) % 512)
    path = tmp_path / "shard.tar"
    path.write_bytes(before + WILD_HEADERS[what] + behind)
    found = list(read_shard(str(path), MAX_BYTES))
    assert [sample.key for sample in found[:2]] == ["a", "b"]
    assert problems(found[:2]) == [None, None]
    assert found[2].problem is not None
    for sample in found[2:]:
        detail = sample.problem.detail if sample.problem else ""
        assert len(sample.key.encode()) <= MAX_KEY_BYTES
        assert len(detail.encode()) < 3 * MAX_KEY_BYTES


def test_a_header_that_unpacks_to_gigabytes_takes_little_memory(tmp_path: Path) -> None:
    """2 MB that claim, and unpack to, a name of 2 GB."""
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(header("x", tarfile.GNUTYPE_LONGNAME, (1 << 31) - 512))
        for _ in range(64):
            file.write(bytes(1 << 20))
    assert problems(list(read_shard(str(path), MAX_BYTES))) == ["unreadable_shard"]
    code = (
        "import resource, sys\nfrom components.files.tars import read_shard\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "list(read_shard(sys.argv[1], 1000))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 20_000  # kB


def test_a_bzip2_file_that_unpacks_to_too_much_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREE_EXPANSION", 1 << 22)
    packed = bz2.compress(bytes(1 << 20))  # some 45 bytes
    path = tmp_path / "bomb.tar.bz2"
    path.write_bytes(packed * 8)
    (sample,) = read_shard(str(path), MAX_BYTES)
    assert sample.problem is not None
    assert "unpacks to more than" in sample.problem.detail


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_what_tarfile_says_they_are(tmp_path: Path, format: int) -> None:
    names = ["a.jpg", "folder/é.png", f"{'d' * 90}/{'e' * 60}.jpg", "f/.hidden.jpg"]
    if format != tarfile.USTAR_FORMAT:
        names.append(f"{'long/' * 100}x.jpg")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w", format=format) as archive:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = (
                number * 300,
                number + 0.5,
                "é" if format == 2 else "",
            )
            archive.addfile(info, io.BytesIO(b"x" * info.size))
    with tarfile.open(path) as archive:
        expected = {split_member_name(m.name)[0]: m.size for m in archive if not is_hidden(m.name)}
    assert {s.key: len(*s.members.values()) for s in read_shard(str(path), 10**6)} == expected
    assert list(read_keys(str(path))) == list(expected)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None
)
@given(data=st.data(), pack=st.sampled_from(PACKERS))
def test_what_stands_before_damage_is_kept(
    tmp_path: Path, data: st.DataObject, pack: Callable[[bytes], bytes]
) -> None:
    """Bytes are changed behind the first archive only, or behind the first stream."""
    first = pack(tar_bytes(tmp_path, PAIR))
    behind = bytearray(pack(tar_bytes(tmp_path, TWO)))
    for _ in range(data.draw(st.integers(1, 3))):
        behind[data.draw(st.integers(0, len(behind) - 1))] = data.draw(st.integers(0, 255))
    found = ends(tmp_path, first + bytes(behind[: data.draw(st.integers(0, len(behind)))]))
    assert found[:2] == ["a", "b"]

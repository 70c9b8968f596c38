"""Unpacking of gzip, bzip2 and xz, told by their first bytes; any other file is read unchanged.

A file may consist of several compressed streams, as `cat a.tar.gz b.tar.gz` makes it: they are read
on. Zeros behind a stream are padding; other bytes behind it are an error, where Python's bz2 and
lzma are silent. What a read takes is bounded by what was asked for, however much the file unpacks
to.
"""

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Protocol

# bytes given to a decompressor at once: what it made of them is lost where it fails
PACKED_CHUNK = 1 << 13
CHUNK = 1 << 18  # bytes unpacked at once
XZ_MEMORY = 1 << 28  # bytes; `xz -9` needs 65 MiB to unpack, a header may ask for 4 GiB
# gzip cannot pack more than 1032 to 1; bzip2 and xz pack zeros by millions, and unpacking them
# takes hours.
MAX_EXPANSION = 2000
FREE_EXPANSION = 1 << 28  # bytes that any file may unpack to


class DamagedFileError(ValueError):
    """A file breaks its format: it is cut, changed, or followed by something else."""


class _Decompressor(Protocol):
    """The interface of bz2 and lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib with the interface of bz2 and lzma; all in front of a damaged byte is unpacked."""

    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=31)
        self.error: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self.inner.eof

    @property
    def needs_input(self) -> bool:
        return not self.inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self.inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self.error is not None:
            raise self.error

        # The copy unpacks once more what is lost with an error.
        before, data = self.inner.copy(), self.inner.unconsumed_tail + data
        try:
            return self.inner.decompress(data, max_length)
        except zlib.error as error:
            self.error = error
            return self._unpack_bytewise(before, data, max_length)

    @staticmethod
    def _unpack_bytewise(decompressor: "zlib._Decompress", data: bytes, max_length: int) -> bytes:
        """Return the content in front of the byte at which `decompressor` fails."""
        found = b""
        with suppress(zlib.error):
            for at in range(len(data)):
                found += decompressor.decompress(data[at : at + 1], max_length - len(found))
                if len(found) >= max_length:
                    break
        return found


MAGIC: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b\x08": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY),
    b"]\x00\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, XZ_MEMORY),
}
BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # behind "BZh9": of a block, and of a file without one
LONGEST_MAGIC = 10


def open_unpacked(file: IO[bytes]) -> "PlainReader | UnpackingReader":
    """Return a reader of `file`, which stands at its beginning and can be sought in."""
    start = file.read(LONGEST_MAGIC)
    file.seek(0)
    return PlainReader(file) if _decompressor_for(start) is None else UnpackingReader(file)


class PlainReader:
    """A file that is not compressed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, num_bytes: int) -> bytes:
        """Return so many bytes, fewer only at the end of the file."""
        return self.file.read(num_bytes)

    def skip(self, num_bytes: int) -> None:
        """Go on behind so many bytes. Raises EOFError when the file has fewer."""
        if num_bytes:
            self.file.seek(num_bytes - 1, os.SEEK_CUR)
            if not self.file.read(1):
                raise EOFError("the file ends too early")


class UnpackingReader:
    """The content of one compressed stream after another.

    Raises DamagedFileError, EOFError for a stream that is cut, zlib.error, OSError and
    lzma.LZMAError for a damaged one; everything before the fault has been read by then.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decompressor: _Decompressor | None = None  # None: before, between and behind streams
        self.packed = b""  # read, but not given to the decompressor
        self.ready = bytearray()  # unpacked, but not asked for
        self.num_packed = self.num_unpacked = 0  # bytes so far

    def read(self, num_bytes: int) -> bytes:
        """Return so many bytes, fewer only at the end of the file."""
        while len(self.ready) < num_bytes and self._unpack_more():
            pass
        found = bytes(self.ready[:num_bytes])
        del self.ready[:num_bytes]
        return found

    def skip(self, num_bytes: int) -> None:
        """Go on behind so many bytes. Raises EOFError when the file has fewer."""
        while num_bytes:
            found = len(self.read(min(num_bytes, CHUNK)))
            if not found:
                raise EOFError("the file ends too early")
            num_bytes -= found

    def _unpack_more(self) -> bool:
        """Unpack one chunk at most; return False at the end of the file."""
        if self.decompressor is None and not self._begin_stream():
            return False
        decompressor = self.decompressor
        assert decompressor is not None

        # one chunk, from what has been read or from a little more of the file
        if decompressor.needs_input and not self.packed:
            self.packed = self._read_packed()
        at_end = decompressor.needs_input and not self.packed
        found = decompressor.decompress(self.packed, CHUNK)
        self.packed = b""
        self.ready += found
        self.num_unpacked += len(found)

        # the end of a stream, or of the file, or of our patience
        if self.num_unpacked > FREE_EXPANSION + MAX_EXPANSION * self.num_packed:
            raise DamagedFileError(f"it unpacks to more than {MAX_EXPANSION} times its size")
        if decompressor.eof:
            self.packed, self.decompressor = decompressor.unused_data, None
        elif at_end and not found:
            raise EOFError("the compressed file ends too early: it was cut")
        return True

    def _begin_stream(self) -> bool:
        """Go on behind padding to the next stream; return False at the end of the file."""
        is_first = not self.num_packed
        while True:
            if not is_first:  # tapes and some writers fill up with zeros
                self.packed = self.packed.lstrip(b"\0")
            if self.packed:
                break
            self.packed = self._read_packed()
            if not self.packed:
                return False

        # A stream is told by its first bytes, and nothing else may follow a stream.
        if len(self.packed) < LONGEST_MAGIC:
            self.packed += self._read_packed()
        self.decompressor = _decompressor_for(self.packed)
        if self.decompressor is None:
            raise DamagedFileError(
                "behind the end of the compressed data there are bytes that are no such data"
            )
        return True

    def _read_packed(self) -> bytes:
        data = self.file.read(PACKED_CHUNK)
        self.num_packed += len(data)
        return data


def _decompressor_for(start: bytes) -> _Decompressor | None:
    """Return a decompressor for a stream, by its first bytes; None for anything else."""
    # A text may begin with these three letters, too.
    if start.startswith(b"BZh") and start[4:10] not in BZIP2_BLOCKS:
        return None
    for magic, make in MAGIC.items():
        if start.startswith(magic):
            return make()
    return None

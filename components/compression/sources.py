"""Two kinds of corpus: a folder of pictures of any kind, and Parquet files with the columns image_id and image.

Nothing outside the folder is read: links that lead out of it are rejects. Ids are never used to build a path that the
listing did not find.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import schema
from components.compression.corpus import ENTRIES, Corpus, Picture, Shard, build_corpus
from components.compression.rejects import Reject, UnreadablePictureError

PARQUET_SUFFIX = ".parquet"
READ_ROWS = 64  # pictures of a Parquet corpus that are in memory at once


def list_corpus(path: Path, suffixes: Sequence[str]) -> Corpus:
    """List a folder of pictures with one of the `suffixes` (lower case), a folder of Parquet files, or one Parquet
    file.

    Raises ValueError: nothing there, both kinds in one folder, or Parquet without the two columns.
    """
    if not path.exists():
        raise ValueError(f"{path}: there is no such folder of pictures, nor such a {PARQUET_SUFFIX} file")
    if not path.is_dir():
        if path.suffix != PARQUET_SUFFIX:
            raise ValueError(f"{path}: is neither a folder of pictures nor a {PARQUET_SUFFIX} file")
        return list_parquet(path.parent, [path])
    tables = sorted(table for table in path.glob(f"*{PARQUET_SUFFIX}") if not table.name.startswith((".", "_")))
    pictures = list_folder(path, suffixes)
    if tables and pictures.files:
        raise ValueError(f"{path}: holds both {PARQUET_SUFFIX} files and pictures; give them folders of their own")
    if not tables and not pictures.files:
        found = f"; it holds {pictures.skipped}" if pictures.skipped else ""
        raise ValueError(f"{path}: holds no {PARQUET_SUFFIX} files and no pictures ({', '.join(suffixes)}){found}")
    return list_parquet(path, tables) if tables else pictures


def list_folder(root: Path, suffixes: Sequence[str]) -> Corpus:
    """List the pictures below `root`, at any depth; the id of a picture is its path below `root`, with `/`."""
    entries, rejects, files = [], [], []
    skipped: Counter[str] = Counter()
    for name in sorted(_walk(root, skipped)):
        path = PurePosixPath(name)
        if path.name.startswith("."):
            skipped["hidden"] += 1
        elif path.suffix.lower() not in suffixes:
            skipped[path.suffix.lower() or "no suffix"] += 1
        else:
            reject = _check_path(root, name)
            status = (root / name).lstat()
            files.append((_printable(name), status.st_size, status.st_mtime_ns))
            if reject:
                rejects.append(reject)
            else:
                entries.append({"image_id": name, "file": name, "row": 0})
    return build_corpus("folder", root, pa.Table.from_pylist(entries, ENTRIES), rejects, dict(skipped), files)


def list_parquet(root: Path, tables: Sequence[Path]) -> Corpus:
    """List the rows of Parquet files;

    ids that are not text are written as text. Raises ValueError for other columns.
    """
    rejects: list[Reject] = []
    entries = [ENTRIES.empty_table()]
    for path in tables:
        ids = _read_ids(path)
        bad = pc.fill_null(pc.equal(ids, ""), True)
        rows = pa.array(range(len(ids)), pa.int64())
        rejects += [
            Reject(f"{path.name}#{row}", "bad_id", "the id is null or empty") for row in rows.filter(bad).to_pylist()
        ]
        columns = [ids, pa.array([path.name] * len(ids), pa.string()), rows]
        entries.append(pa.Table.from_arrays(columns, schema=ENTRIES).filter(pc.invert(bad)))
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
    return build_corpus("parquet", root, pa.concat_tables(entries), rejects, {}, files)


def read_pictures(kind: str, root: Path, shard: Shard, max_bytes: int) -> Iterator[Picture]:
    """The pictures of a shard in the order of their files and rows; none of more than `max_bytes` is loaded."""
    if kind == "folder":
        for image_id, name in zip(shard.image_ids, shard.files, strict=True):
            yield Picture(image_id, partial(_read_file, root / name, max_bytes))
        return
    for name in sorted(set(shard.files)):
        places = zip(shard.rows, shard.image_ids, shard.files, strict=True)
        wanted = {row: image_id for row, image_id, file in places if file == name}
        yield from _read_parquet(root / name, wanted, max_bytes)


def _walk(root: Path, skipped: Counter[str]) -> Iterator[str]:
    """Paths of all files below `root`, with `/`; linked folders are not entered, hidden ones are counted."""
    for folder, subfolders, names in os.walk(root):
        for name in [name for name in subfolders if name.startswith(".") or os.path.islink(os.path.join(folder, name))]:
            skipped["hidden folder" if name.startswith(".") else "linked folder"] += 1
            subfolders.remove(name)
        for name in names:
            yield Path(folder, name).relative_to(root).as_posix()


def _check_path(root: Path, name: str) -> Reject | None:
    path = root / name
    if _printable(name) != name:
        return Reject(_printable(name), "bad_id", "the file name is not UTF-8")
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return Reject(name, "path_escapes_root", "a link out of the folder")
    return None


def _printable(name: str) -> str:
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file; a pipe or device is not opened, since that could block."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnreadablePictureError("not_a_file", "neither a file nor a link to one")
        _check_bytes(status.st_size, max_bytes)
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadablePictureError("image_missing", "gone since the folder was listed, or a broken link") from None
    except OSError as error:
        raise UnreadablePictureError("unreadable", str(error.strerror)) from None


def _check_bytes(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UnreadablePictureError("too_many_bytes", f"{size} bytes, more than {max_bytes}")


def _read_ids(path: Path) -> pa.ChunkedArray:
    try:
        with pq.ParquetFile(path) as table:
            missing = [name for name in (schema.IMAGE_ID, schema.IMAGE) if name not in table.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"{path}: has no column {' and '.join(missing)}; its columns: {table.schema_arrow.names}"
                )
            kind = table.schema_arrow.field(schema.IMAGE).type
            if _bytes_of(kind) is None:
                raise ValueError(
                    f"{path}: column {schema.IMAGE} has type {kind} instead of binary or struct<bytes: binary>"
                )
            return table.read(columns=[schema.IMAGE_ID])[schema.IMAGE_ID].cast(pa.string())
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}") from None


def _bytes_of(kind: pa.DataType) -> Sequence[str] | None:
    """Where the bytes are in a column of this type: itself, or the field `bytes` that Hugging Face datasets write."""
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return []
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return ["bytes"]
    return None


def _read_parquet(path: Path, wanted: dict[int, str], max_bytes: int) -> Iterator[Picture]:
    """The rows of one file whose numbers are in `wanted`, from the row groups that hold them."""
    with pq.ParquetFile(path) as table:
        start = 0
        for group in range(table.metadata.num_row_groups):
            stop = start + table.metadata.row_group(group).num_rows
            if any(start <= row < stop for row in wanted):
                yield from _read_row_group(table, group, start, wanted, max_bytes)
            start = stop


def _read_row_group(
    table: pq.ParquetFile, group: int, start: int, wanted: dict[int, str], max_bytes: int
) -> Iterator[Picture]:
    for batch in table.iter_batches(READ_ROWS, row_groups=[group], columns=[schema.IMAGE]):
        column = batch[schema.IMAGE]
        for field in _bytes_of(column.type) or []:
            column = pc.struct_field(column, field)
        for offset in range(len(column)):
            if start + offset in wanted:
                yield Picture(wanted[start + offset], partial(_load, column[offset], max_bytes))
        start += len(column)


def _load(value: pa.Scalar, max_bytes: int) -> bytes:
    if not value.is_valid:
        raise UnreadablePictureError("image_missing", "the column image is null")
    _check_bytes(len(value.as_buffer()), max_bytes)
    return value.as_py()

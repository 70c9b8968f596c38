"""The manifest of an index folder: its sources and files; written last, by one rename.

Readers open only files that it names: a killed build or addition leaves the index as it was.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.files.atomic import put_in_place, sha256_of, write_whole

SCHEMA_VERSION = 1
MANIFEST = "_manifest.json"
ASIDE = ".manifest.partial"
# names of files that a run begins to write, so that the next one knows them after a kill
BEGUN = "_begun.jsonl"
OLD_LOCK = "_lock"  # of earlier versions; the lock lies beside the folder now
Kind = Literal["exact", "approximate"]


class IndexFolderError(ValueError):
    """An index is damaged, incomplete, or no index; the message names the file and the way out."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class IndexFile(_Frozen):
    """One file of an index."""

    name: str
    bytes: int
    sha256: str


class IndexedFile(_Frozen):
    """A file of a store, and its embeddings."""

    store: str  # folder, as named at indexing; `--maxsim` reads the tokens there
    name: str
    sha256: str
    rows: int
    vectors: IndexFile


class Recall(_Frozen):
    """Share of the k nearest that the approximate search finds, over queries from the index."""

    k: int
    queries: int
    recall: float


class IndexManifest(_Frozen):
    """The content of an index."""

    schema_version: int
    provenance: dict[str, Any]  # of all stores it was built from
    kind: Kind
    num_candidates: int | None  # scored exactly per query, of an approximate index
    sources: tuple[IndexedFile, ...]  # in the order of the rows
    pictures: IndexFile  # ids and sizes, in the order of the rows
    codes: IndexFile | None
    recall: Recall | None

    @property
    def dim(self) -> int:
        """The length of an embedding."""
        return int(self.provenance["dim"])

    @property
    def files(self) -> list[IndexFile]:
        """Every file but the manifest."""
        vectors = [source.vectors for source in self.sources]
        codes = [] if self.codes is None else [self.codes]
        return [*vectors, self.pictures, *codes]

    @property
    def num_rows(self) -> int:
        """The number of pictures."""
        return sum(source.rows for source in self.sources)


def read_manifest(folder: Path) -> IndexManifest:
    """Read the manifest. Raises IndexFolderError: there is none that this version reads."""
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFolderError(
            f"{folder}: holds no finished index (no {MANIFEST}); "
            f"make one: `fwd2bot index build STORE {folder}`"
        ) from None
    except (ValueError, RecursionError) as error:
        raise IndexFolderError(f"{path}: cannot be read: {error}; build the index again") from None

    # before anything else: another version may have other fields
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise IndexFolderError(
            f"{path}: has schema version {version}, this version reads {SCHEMA_VERSION}; "
            "build the index again"
        )

    try:
        return IndexManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise IndexFolderError(f"{path}: is not the manifest of an index: {error}") from None


def write_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Put the manifest into the folder, then remove files of earlier and killed runs."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    earlier = files_of(folder)
    note_begun(folder, ASIDE)
    write = partial(Path.write_text, data=text, encoding="utf-8")
    write_whole(folder / MANIFEST, write, folder / ASIDE)

    # the new manifest counts now; BEGUN goes last, so that a kill here leaves its names
    in_use = {file.name for file in manifest.files}
    for name in earlier - in_use - {MANIFEST, BEGUN, OLD_LOCK}:
        (folder / name).unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)


def files_of(folder: Path) -> set[str]:
    """Return the names of all files that runs have written into a folder, there or not.

    Raises IndexFolderError for a manifest of something else than an index.
    """
    names = {MANIFEST, BEGUN, OLD_LOCK}
    if (folder / MANIFEST).exists():
        names |= {file.name for file in read_manifest(folder).files}
    if (folder / BEGUN).is_file():
        # the last line is empty, or was cut by a kill
        lines = (folder / BEGUN).read_text(encoding="utf-8", errors="replace").split("\n")
        for line in lines[:-1]:
            names.update(_name_in(line))
    return set(filter(is_file_name, names))


def is_file_name(name: str) -> bool:
    """Return whether a name leads to a file in the folder itself, nowhere else."""
    return "/" not in name and name not in ("", ".", "..") and "\0" not in name


def note_begun(folder: Path, name: str) -> None:
    """Note the name of a file before it is written."""
    with (folder / BEGUN).open("a", encoding="utf-8") as stream:
        # the first line break ends a line that a kill has cut
        stream.write("\n" + json.dumps(name) + "\n")


def _name_in(line: str) -> list[str]:
    """Return the name in a line of BEGUN, or none: a cut line names a file that was not begun."""
    try:
        name = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [name] if isinstance(name, str) else []


def check_files(folder: Path, manifest: IndexManifest) -> None:
    """Check the sizes of all files, and the bytes of those that search holds in memory.

    Raises IndexFolderError.
    """
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise IndexFolderError(f"{path}: is missing; build the index again")
        if path.stat().st_size != file.bytes:
            raise IndexFolderError(
                f"{path}: has {path.stat().st_size} bytes instead of {file.bytes}; build it again"
            )

    # the embeddings are too many to read at each start
    check_bytes(folder, manifest.pictures)
    if manifest.codes is not None:
        check_bytes(folder, manifest.codes)


def check_bytes(folder: Path, file: IndexFile) -> None:
    """Compare a file's SHA-256 with the manifest's. Raises IndexFolderError."""
    if sha256_of(folder / file.name) != file.sha256:
        raise IndexFolderError(
            f"{folder / file.name}: has changed since it was written; build the index again"
        )


def store_file(folder: Path, stem: str, suffix: str, write: Callable[[Path], object]) -> IndexFile:
    """Write a file of the index, whole or not at all, with part of its SHA-256 in its name."""
    # noted first: the next run removes what a kill leaves
    temporary = folder / f".{stem}{suffix}.partial"
    note_begun(folder, temporary.name)
    write(temporary)

    digest = sha256_of(temporary)
    path = folder / f"{stem}-{digest[:16]}{suffix}"
    note_begun(folder, path.name)
    put_in_place(temporary, path)
    return IndexFile(name=path.name, bytes=path.stat().st_size, sha256=digest)

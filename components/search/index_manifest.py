"""The manifest of an index folder: its sources and its files; written last, by one rename.

Readers look at nothing that it does not name, so that a build or an addition that is killed leaves
the index as it was.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.files.atomic import put_in_place, sha256_of, write_whole

SCHEMA_VERSION = 1
MANIFEST = "_manifest.json"
ASIDE = ".manifest.partial"
# names of files that a run has begun to write: what it leaves when it is killed
BEGUN = "_begun.jsonl"
OLD_LOCK = "_lock"  # of versions before; today's lies beside the folder
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

    store: str  # folder as it was named when it was indexed; where `--maxsim` looks for the tokens
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
    """What an index holds."""

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
        """Numbers of an embedding."""
        return int(self.provenance["dim"])

    @property
    def files(self) -> list[IndexFile]:
        """Every file but the manifest."""
        codes = [] if self.codes is None else [self.codes]
        return [*(source.vectors for source in self.sources), self.pictures, *codes]

    @property
    def num_rows(self) -> int:
        """Pictures."""
        return sum(source.rows for source in self.sources)


def read_manifest(folder: Path) -> IndexManifest:
    """Raises IndexFolderError when there is none, or none that this version reads."""
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
    """Make `manifest` that of the folder, then remove files of earlier and killed runs."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
    earlier = files_of(folder)
    note_begun(folder, ASIDE)
    write_whole(
        folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"), folder / ASIDE
    )
    for name in earlier - {file.name for file in manifest.files} - {MANIFEST, BEGUN, OLD_LOCK}:
        (folder / name).unlink(missing_ok=True)
    (folder / BEGUN).unlink(missing_ok=True)


def files_of(folder: Path) -> set[str]:
    """Return the names of all files that runs have written into a folder, there or not.

    Raises IndexFolderError when its manifest is not that of an index.
    """
    names = {MANIFEST, BEGUN, OLD_LOCK}
    if (folder / MANIFEST).exists():
        names |= {file.name for file in read_manifest(folder).files}
    if (folder / BEGUN).is_file():
        lines = (folder / BEGUN).read_text(encoding="utf-8", errors="replace").split("\n")
        for line in lines[:-1]:
            names.update(_begun(line))
    return {name for name in names if is_file_name(name)}


def is_file_name(name: str) -> bool:
    """Return whether a name is that of a file in the folder, and of none elsewhere."""
    return "/" not in name and name not in ("", ".", "..") and "\0" not in name


def note_begun(folder: Path, name: str) -> None:
    """Note, before it is there, that a file is about to be."""
    with (folder / BEGUN).open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(name) + "\n")  # what a kill has cut ends here


def _begun(line: str) -> list[str]:
    """Return the name in a line; one that a kill has cut names a file that was not begun."""
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
    temporary = folder / f".{stem}{suffix}.partial"
    note_begun(folder, temporary.name)
    write(temporary)
    digest = sha256_of(temporary)
    path = folder / f"{stem}-{digest[:16]}{suffix}"
    note_begun(folder, path.name)
    put_in_place(temporary, path)
    return IndexFile(name=path.name, bytes=path.stat().st_size, sha256=digest)

"""Reader of compressed corpora: random access by picture id, streaming, and embeddings.

A store is opened through its manifest only. `open` reads the picture ids and the metadata of every file, never the
tokens; what it cannot vouch for (missing, extra, cut or foreign files, files of two models, an id twice) it refuses
with the difference spelled out.
"""

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.compression.manifest import Manifest, check_files, read_manifest
from components.compression.provenance import Provenance, StoreError, differences, from_metadata
from components.compression.shards import TokenRows, open_shard, read_ids, read_rows


class UnknownImageError(ValueError):
    """A picture id that is not in the store; the message names the nearest ids."""


class _Place(NamedTuple):
    file: int
    row: int


class TokenStore:
    """The compressed pictures of one folder.

    `ids` are in the order of the files, which is the order of `embeddings()`.
    """

    def __init__(self, folder: Path, manifest: Manifest, ids_by_file: list[list[str]]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.ids = [image_id for ids in ids_by_file for image_id in ids]
        self._places = {
            image_id: _Place(file, row) for file, ids in enumerate(ids_by_file) for row, image_id in enumerate(ids)
        }

    @classmethod
    def open(cls, folder: Path | str) -> "TokenStore":
        """Open a finished store. Raises StoreError."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        ids_by_file = []
        for file in manifest.files:
            _check_file(folder / file.name, file.rows, manifest.provenance)
            ids_by_file.append(read_ids(folder / file.name))
        store = cls(folder, manifest, ids_by_file)
        if len(store._places) != len(store.ids):
            raise StoreError(f"{folder}: {len(store.ids) - len(store._places)} picture ids occur twice; compress again")
        return store

    @property
    def provenance(self) -> Provenance:
        """Where the tokens come from."""
        return self.manifest.provenance

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._places

    def tokens(self, image_ids: Sequence[str]) -> np.ndarray:
        """float32 summary tokens (len(image_ids), summary_tokens, dim) in the order asked for; an id may be asked for
        twice.

        Reads the row groups that hold the ids and nothing else. Raises UnknownImageError, StoreError.
        """
        places = [self._place(image_id) for image_id in image_ids]
        found = np.empty((len(places), self.provenance.num_summary_tokens, self.provenance.dim), np.float32)
        for file in sorted({place.file for place in places}):
            wanted = {position: place.row for position, place in enumerate(places) if place.file == file}
            for position, tokens in self._read_places(file, wanted):
                found[position] = tokens
        return found

    def iter_batches(self) -> Iterator[TokenRows]:
        """All rows in order, some at a time. Raises StoreError for a damaged page."""
        for file in self.manifest.files:
            yield from read_rows(self.folder / file.name, self.provenance)

    def embeddings(self) -> np.ndarray:
        """float32 L2-normalised means of the summary tokens, (len(self), dim), in the order of `ids`."""
        means = [rows.summary_tokens.mean(axis=1) for rows in self.iter_batches()]
        return normalise(np.concatenate([np.empty((0, self.provenance.dim), np.float32), *means]))

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest: finds any changed byte. Raises StoreError."""
        for file in (*self.manifest.files, self.manifest.rejects):
            with (self.folder / file.name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                    raise StoreError(
                        f"{self.folder / file.name}: has changed since it was written; restore it or compress again"
                    )

    def _place(self, image_id: str) -> _Place:
        if image_id not in self._places:
            near = difflib.get_close_matches(image_id, self.ids, n=3, cutoff=0.0)
            raise UnknownImageError(
                f"no picture {image_id!r} among the {len(self)} of {self.folder}; the nearest ids: {near}"
            )
        return self._places[image_id]

    def _read_places(self, file: int, rows: dict[int, int]) -> Iterator[tuple[int, np.ndarray]]:
        """(position, tokens) for each position whose row in the file is given."""
        path = self.folder / self.manifest.files[file].name
        groups, starts = _row_groups(path, set(rows.values()))
        numbers = [number for group in groups for number in range(starts[group], starts[group + 1])]
        positions_by_row: dict[int, list[int]] = {}
        for position, row in rows.items():
            positions_by_row.setdefault(row, []).append(position)
        offset = 0
        for batch in read_rows(path, self.provenance, groups):
            for number, tokens in zip(
                numbers[offset : offset + len(batch.image_ids)], batch.summary_tokens, strict=True
            ):
                for position in positions_by_row.get(number, ()):
                    yield position, tokens
            offset += len(batch.image_ids)


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Rows of `vectors` (batch, dim) at length 1. Raises ValueError for a row without a direction."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a vector is zero or not finite, so it has no direction")
    return vectors / norms


def _check_file(path: Path, rows: int, provenance: Provenance) -> None:
    with open_shard(path) as shard:
        theirs = from_metadata(shard.schema_arrow.metadata, str(path))
        differing = differences(provenance, theirs)
        if differing:
            raise StoreError(f"{path}: was written by another run than the manifest says: {'; '.join(differing)}")
        if shard.metadata.num_rows != rows:
            raise StoreError(
                f"{path}: has {shard.metadata.num_rows} rows instead of {rows}; restore it or compress again"
            )


def _row_groups(path: Path, rows: set[int]) -> tuple[list[int], list[int]]:
    """The row groups that hold `rows`, and the first row of every row group plus the end of the last."""
    with open_shard(path) as shard:
        sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.metadata.num_row_groups)]
    starts = [0, *np.cumsum(sizes).tolist()]
    groups = [group for group in range(len(sizes)) if any(starts[group] <= row < starts[group + 1] for row in rows)]
    return groups, starts

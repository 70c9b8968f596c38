"""Reader of a store: random access by picture id, streaming, and embeddings.

A store is opened through its manifest only. `open` compares names and sizes of the files with it
and reads none of them: the manifest says which ids each file begins and ends with, so that one
picture of a million is two reads away. A file is held against the manifest when it is first read,
and every page against its checksum. What cannot be vouched for (missing, extra, cut or foreign
files, files of two models, an id twice) is refused with the difference spelled out.
"""

import difflib
import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from components.files.atomic import sha256_of
from components.store.fit import Fit, read_fit
from components.store.manifest import (
    FIT,
    Manifest,
    StoredShard,
    all_files,
    check_files,
    read_manifest,
)
from components.store.provenance import Provenance, StoreError, differences, from_metadata
from components.store.shards import (
    TokenRows,
    are_rising,
    find_rows,
    open_shard,
    read_ids,
    read_rows,
)

FOOTERS = 256  # of files that are kept in memory


class UnknownImageError(ValueError):
    """A picture id that is not in the store; the message names the nearest ids."""


class StoreReader:
    """The compressed pictures of one folder."""

    def __init__(self, folder: Path, manifest: Manifest, fit: Fit | None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.fit = fit
        self._files = [file for file in manifest.files if file.rows]
        self._last_ids = [str(file.last_id) for file in self._files]
        self._ids = lru_cache(maxsize=None)(self._read_ids)
        self._footer = lru_cache(maxsize=FOOTERS)(self._read_footer)

    @classmethod
    def open(cls, folder: Path | str) -> "StoreReader":
        """Open a finished store. Raises StoreError."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        return cls(folder, manifest, load_fit(folder, manifest))

    @property
    def provenance(self) -> Provenance:
        """Return the provenance of the tokens."""
        return self.manifest.provenance

    @cached_property
    def ids(self) -> list[str]:
        """List all picture ids, sorted: the order of `iter_batches` and `embeddings`."""
        return list(chain.from_iterable(map(self._ids, self._files)))

    def __len__(self) -> int:
        return self.manifest.rows_kept

    def __contains__(self, image_id: str) -> bool:
        file = self._file_of(image_id)
        if file is None:
            return False

        ids = self._ids(file)
        row = bisect_left(ids, image_id)
        return row < len(ids) and ids[row] == image_id

    def tokens(self, image_ids: Sequence[str]) -> np.ndarray:
        """Read float32 summary tokens (len(image_ids), summary_tokens, dim) in the order asked for.

        An id may be asked for twice. Only the row groups that hold the ids are read. Raises
        UnknownImageError, StoreError.
        """
        positions: dict[str, list[int]] = defaultdict(list)
        for position, image_id in enumerate(image_ids):
            positions[image_id].append(position)

        # Files come in their own order; every row is put where it was asked for.
        shape = (len(image_ids), self.provenance.num_summary_tokens, self.provenance.dim)
        found = np.empty(shape, np.float32)
        missing = set(positions)
        for rows in self._find(positions):
            missing.difference_update(rows.image_ids)
            for image_id, tokens in zip(rows.image_ids, rows.summary_tokens, strict=True):
                found[positions[image_id]] = tokens
        if missing:
            raise self._unknown(min(missing, key=positions.__getitem__))

        return found

    def iter_batches(self) -> Iterator[TokenRows]:
        """Read all rows in order, some at a time. Raises StoreError for a damaged page."""
        for file in self._files:
            self._footer(file)
            yield from read_rows(self.folder / file.name, self.provenance, self.fit)

    def embeddings(self) -> np.ndarray:
        """Compute L2-normalised means of the summary tokens, float32 (len(self), dim)."""
        means = [np.empty((0, self.provenance.dim), np.float32)]
        for rows in self.iter_batches():
            means.append(rows.summary_tokens.mean(axis=1))
        return normalise(np.concatenate(means))

    def verify(self) -> None:
        """Compare the SHA-256 of every file with the manifest. Raises StoreError for a changed one.

        `python -m flows.verify` finds all there is to find.
        """
        for file in all_files(self.manifest):
            if sha256_of(self.folder / file.name) != file.sha256:
                raise StoreError(
                    f"{self.folder / file.name}: has changed since it was written; restore it or "
                    "compress again"
                )

    def _find(self, image_ids: Collection[str]) -> Iterator[TokenRows]:
        """Find the rows of these pictures, file by file; ids that are in no file are left out."""
        by_file: dict[StoredShard, set[str]] = defaultdict(set)
        for image_id in image_ids:
            if file := self._file_of(image_id):
                by_file[file].add(image_id)
        for file, wanted in by_file.items():
            yield from find_rows(
                self.folder / file.name, self._footer(file), wanted, self.provenance, self.fit
            )

    def _file_of(self, image_id: str) -> StoredShard | None:
        """Find the one file that can hold an id, by the first and last id of each."""
        number = bisect_left(self._last_ids, image_id)
        if number == len(self._files) or image_id < str(self._files[number].first_id):
            return None
        return self._files[number]

    def _read_ids(self, file: StoredShard) -> list[str]:
        """Read the ids of a file. Raises StoreError unless they are the manifest's, in order."""
        self._footer(file)
        ids = read_ids(self.folder / file.name, self.fit)
        if not are_rising(ids) or (ids[0], ids[-1]) != (file.first_id, file.last_id):
            raise StoreError(
                f"{self.folder / file.name}: its picture ids are not in order, or not those of the "
                "manifest; restore it or compress again"
            )
        return ids

    def _read_footer(self, file: StoredShard) -> pq.FileMetaData:
        """Read the footer of a file. Raises StoreError for another run or number of rows."""
        path = self.folder / file.name
        with open_shard(path, self.fit) as shard:
            if faults := shard_faults(shard, file, self.provenance):
                raise StoreError(f"{path}: {'; '.join(faults)}; restore it or compress again")
            return shard.metadata

    def _unknown(self, image_id: str) -> UnknownImageError:
        # The nearest ids are looked for in one file: a store may have ten million.
        number = min(bisect_left(self._last_ids, image_id), len(self._files) - 1)
        candidates = self._ids(self._files[number]) if self._files else []
        near = difflib.get_close_matches(image_id, candidates, n=3, cutoff=0.0)
        return UnknownImageError(
            f"no picture {image_id!r} among the {len(self)} of {self.folder}; the nearest ids: "
            f"{near}"
        )


def load_fit(folder: Path, manifest: Manifest) -> Fit | None:
    """Read the fit of a store in codec `fitted`. Raises StoreError for none or another one."""
    if manifest.provenance.fit_sha256 is None:
        return None

    # A missing file has the hash of no bytes, which no fit has.
    path = folder / FIT
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != manifest.provenance.fit_sha256:
        raise StoreError(
            f"{path}: is not the fit that the tokens were stored with; restore it or recode again"
        )
    return read_fit(data)


def shard_faults(shard: pq.ParquetFile, file: StoredShard, provenance: Provenance) -> list[str]:
    """List the faults by which the footer of a file contradicts the manifest."""
    faults = []
    differing = differences(provenance, from_metadata(shard.schema_arrow.metadata, file.name))
    if differing:
        faults.append(f"was written by another run than the manifest says: {'; '.join(differing)}")
    if shard.metadata.num_rows != file.rows:
        faults.append(f"has {shard.metadata.num_rows} rows instead of {file.rows}")
    return faults


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Scale `vectors` (batch, dim) to length 1. Raises ValueError for one without a direction."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("a vector is zero or not finite, so it has no direction")
    return vectors / norms

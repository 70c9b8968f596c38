"""An index on disk: open it, check it, and let one process at a time change it.

vectors-*.npy        (rows, dim) float32, L2-normalised, one for each file of a store; memory-mapped
pictures-*.parquet   image_id, width and height in the order of the rows
codes-*.faiss        of an approximate index
_manifest.json       which of these count
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.files.outputs import checked_place, only_writer
from components.search.codes import Codes
from components.search.index import EmbeddingIndex
from components.search.index_manifest import (
    IndexedFile,
    IndexFolderError,
    IndexManifest,
    check_bytes,
    check_files,
    files_of,
    read_manifest,
)
from components.search.vectors import Vectors

PICTURES = pa.schema(
    [
        pa.field(schema.IMAGE_ID, pa.string(), nullable=False),
        pa.field(schema.WIDTH, pa.int32(), nullable=False),
        pa.field(schema.HEIGHT, pa.int32(), nullable=False),
    ]
)


class StoredIndex(NamedTuple):
    """An index that was opened."""

    manifest: IndexManifest
    pictures: pa.Table  # PICTURES, in the order of the rows
    embeddings: EmbeddingIndex


def open_index(folder: Path) -> StoredIndex:
    """Open a finished index; embeddings stay on disk until searched. Raises IndexFolderError."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)

    pictures = pq.read_table(folder / manifest.pictures.name, schema=PICTURES)
    codes = None
    if manifest.codes is not None:
        codes = Codes.read(folder / manifest.codes.name, manifest.num_candidates or 0)
    vectors = open_vectors(folder, manifest.sources, manifest.dim)
    image_ids = pictures[schema.IMAGE_ID].to_pylist()
    return StoredIndex(manifest, pictures, EmbeddingIndex(image_ids, vectors, codes))


def open_vectors(folder: Path, sources: Sequence[IndexedFile], dim: int) -> Vectors:
    """Open the embeddings of an index, memory-mapped. Raises IndexFolderError."""
    return Vectors([open_part(folder, source, dim) for source in sources], dim)


def open_part(folder: Path, source: IndexedFile, dim: int) -> np.ndarray:
    """Open the embeddings (rows, dim) of one file, memory-mapped. Raises IndexFolderError."""
    path = folder / source.vectors.name
    try:
        part = np.load(path, mmap_mode="r" if source.rows else None)
    except (ValueError, OSError) as error:
        raise IndexFolderError(f"{path}: cannot be read: {error}; build the index again") from None
    if part.shape != (source.rows, dim) or part.dtype != np.float32 or not part.flags.c_contiguous:
        raise IndexFolderError(
            f"{path}: holds {part.dtype} {part.shape} instead of float32 {(source.rows, dim)}"
        )
    return part.view(np.ndarray)


def verify_index(folder: Path) -> IndexManifest:
    """Compare every byte with the manifest. Raises IndexFolderError."""
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    for source in manifest.sources:
        check_bytes(folder, source.vectors)
    return manifest


@contextmanager
def changing(folder: Path, stores: Iterable[Path] = ()) -> Iterator[None]:
    """Hold the folder, made if there is none, for one process; a kill frees it.

    Raises BusyError: another process changes it; OutputError: it lies in one of the `stores`;
    IndexFolderError: it holds other things than an index.
    """
    real = checked_place(folder, stores)
    with only_writer(real):
        real.mkdir(exist_ok=True)
        names = {path.name for path in real.iterdir()}

        # runs remove files here: never other people's
        try:
            others = sorted(names - files_of(real))
        except IndexFolderError as error:
            raise IndexFolderError(
                f"{folder}: holds no index that can be changed; choose another: {error}"
            ) from None
        if others:
            raise IndexFolderError(
                f"{folder}: holds {', '.join(others[:3])}, which no index there names; "
                "move that, or choose another folder"
            )
        yield

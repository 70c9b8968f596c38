"""Job `index`: the embeddings of one or more stores as a folder that `search --index` reads.

    fwd2bot index build data/compressed/test data/index --kind approximate
    fwd2bot index add data/index data/compressed/more
    fwd2bot index verify data/index

`build` makes an index or makes it anew, `add` takes the files of stores that are not in it yet. A
kill at any time leaves the index as it was, and the next run keeps the embeddings that are done.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import schema
from components.search.building import (
    Source,
    index_file,
    measure_recall,
    store_codes,
    store_pictures,
)
from components.search.codes import Codes
from components.search.index import EmbeddingIndex
from components.search.index_folder import (
    PICTURES,
    changing,
    open_index,
    open_vectors,
    verify_index,
)
from components.search.index_manifest import (
    SCHEMA_VERSION,
    IndexedFile,
    IndexFolderError,
    IndexManifest,
    Kind,
    write_manifest,
)
from components.search.query import Embedder
from components.store.provenance import Provenance, StoreError, differences
from components.store.shards import read_rows
from components.store.store_reader import StoreReader
from flows.running.places import COMPRESSOR
from flows.running.progress import Progress
from flows.running.stored_corpus import embedder, quiet_libraries


class Held(NamedTuple):
    """Content of an index before files are added."""

    provenance: Provenance
    kind: Kind
    num_candidates: int
    sources: tuple[IndexedFile, ...]
    pictures: pa.Table
    codes: Codes | None


def build(
    stores: Sequence[Path],
    folder: Path,
    kind: Kind,
    num_candidates: int,
    compressor: Path = COMPRESSOR,
    base: str | None = None,
) -> IndexManifest:
    """Make the index `folder`, or make it anew. Raises StoreError, IndexFolderError.

    The compressor is loaded only for a method that needs the model to embed stored tokens.
    """
    opened = [StoreReader.open(store) for store in stores]
    check_provenance(opened[0].provenance, str(stores[0]), opened[1:])
    embed = embedder(opened[0].provenance, compressor, base)

    with changing(folder, stores):
        sources = sources_of(opened, embed)
        if not any(source.rows for source in sources):
            raise IndexFolderError(f"{', '.join(map(str, stores))}: no picture to index")
        nothing = Held(opened[0].provenance, kind, num_candidates, (), PICTURES.empty_table(), None)
        return extend(folder, nothing, sources)


def add(
    folder: Path, stores: Sequence[Path], compressor: Path = COMPRESSOR, base: str | None = None
) -> IndexManifest:
    """Take the files of stores that the index `folder` does not hold.

    Raises StoreError, IndexFolderError.
    """
    opened = [StoreReader.open(store) for store in stores]
    with changing(folder, stores):
        manifest, pictures, embeddings = open_index(folder)
        provenance = Provenance.model_validate(manifest.provenance)
        check_provenance(provenance, str(folder), opened)

        # a file that is in already, under whatever name, is known by its bytes
        known = {source.sha256 for source in manifest.sources}
        sources = sources_of(opened, embedder(provenance, compressor, base))
        new = [source for source in sources if source.sha256 not in known]
        if not new:
            return manifest

        kind, num_candidates = manifest.kind, manifest.num_candidates or 0
        held = Held(provenance, kind, num_candidates, manifest.sources, pictures, embeddings.codes)
        return extend(folder, held, new)


def extend(folder: Path, held: Held, new: Sequence[Source]) -> IndexManifest:
    """Add new files to the content `held`; the index changes with its manifest, at the end."""
    new_pictures = [source.read_pictures() for source in new]
    pictures_file, pictures = store_pictures(folder, [held.pictures, *new_pictures])
    sources = (*held.sources, *index_files(folder, new))

    # an approximate index has codes besides, and says what they cost in recall
    vectors = open_vectors(folder, sources, held.provenance.dim)
    codes_file, codes = None, None
    if held.kind == "approximate":
        print(f"index: codes of {len(vectors)} pictures, then recall", flush=True)
        codes_file, codes = store_codes(folder, held.codes, vectors, held.num_candidates)
    embeddings = EmbeddingIndex(pictures[schema.IMAGE_ID].to_pylist(), vectors, codes)

    manifest = IndexManifest(
        schema_version=SCHEMA_VERSION,
        provenance=held.provenance.model_dump(mode="json"),
        kind=held.kind,
        num_candidates=held.num_candidates if codes else None,
        sources=sources,
        pictures=pictures_file,
        codes=codes_file,
        recall=measure_recall(embeddings) if codes else None,
    )
    write_manifest(folder, manifest)
    return manifest


def check_provenance(ours: Provenance, name: str, stores: Sequence[StoreReader]) -> None:
    """Raise StoreError, with both values, for a store of another provenance than ours."""
    for store in stores:
        if differing := differences(ours, store.provenance):
            raise StoreError(
                f"{store.folder}: does not fit {name} (theirs last): {'; '.join(differing)}; "
                "index it by itself"
            )


def sources_of(stores: Sequence[StoreReader], embed: Embedder) -> list[Source]:
    """List the files of stores; each is read when its turn comes."""
    sources = []
    for store in stores:
        for file in store.manifest.files:
            path = store.folder / file.name

            # no file is opened here, and embeddings of one at a time are in memory
            source = Source(
                store=str(store.folder),
                name=file.name,
                sha256=file.sha256,
                rows=file.rows,
                read_pictures=partial(read_pictures, path),
                read_embeddings=partial(read_embeddings, store, path, embed),
            )
            sources.append(source)
    return sources


def read_pictures(path: Path) -> pa.Table:
    """Read ids and sizes of one file of a store. Raises StoreError."""
    try:
        return pq.read_table(path, columns=PICTURES.names).cast(PICTURES)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path}: is damaged: {error}; restore it or compress again") from None


def read_embeddings(store: StoreReader, path: Path, embed: Embedder) -> np.ndarray:
    """Embed the pictures of one file of a store: (rows, dim) float32. Raises StoreError."""
    found = [embed(rows.summary_tokens) for rows in read_rows(path, store.provenance, store.fit)]
    return np.concatenate([np.empty((0, store.provenance.dim), np.float32), *found])


def index_files(folder: Path, sources: Sequence[Source]) -> list[IndexedFile]:
    """Write the embeddings of files, one after another, and print progress."""
    total = sum(source.rows for source in sources)
    indexed, done = [], 0
    progress = Progress("index", "pictures", total)
    for source in sources:
        indexed.append(index_file(folder, source))
        done += source.rows
        progress.show(done, f"{done}/{total} pictures", done)
    return indexed


def build_and_say(
    stores: Sequence[Path],
    index: Path,
    kind: Kind,
    candidates: int,
    compressor: Path,
    base: str | None,
) -> None:
    """Make an index, or make it anew, and print what it holds."""
    quiet_libraries()
    print(summary(index, build(stores, index, kind, candidates, compressor, base)))


def add_and_say(index: Path, stores: Sequence[Path], compressor: Path, base: str | None) -> None:
    """Take the files of stores that an index does not hold yet, and print what it holds then."""
    quiet_libraries()
    print(summary(index, add(index, stores, compressor, base)))


def verify_and_say(index: Path) -> None:
    """Compare every byte of an index with its manifest, and print what it holds."""
    print(summary(index, verify_index(index)))


def summary(folder: Path, manifest: IndexManifest) -> str:
    """Return one line about an index."""
    size = sum(file.bytes for file in manifest.files)
    line = (
        f"index: {folder} holds {manifest.num_rows} pictures of {len(manifest.sources)} files, "
        f"{manifest.kind}, {size} bytes"
    )
    if (recall := manifest.recall) is None:
        return line
    measured = f"{recall.recall:.3f} ({recall.queries} of its pictures as queries)"
    return f"{line}, recall@{recall.k} {measured}"


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("index")

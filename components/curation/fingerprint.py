"""Fingerprint of all that the checks of rows depend on: they count while it stays the same."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from components.curation.candidates import CandidateParams
from components.curation.pieces import EVALUATION_SPLITS, pictures_source
from components.curation.training_sources import Source, WebdatasetSource
from components.files.code import code_sha256
from components.files.listing import list_files
from components.files.storage import join, matching_files, state_of

CODE = "components.curation.pieces"  # what it imports checks the rows
LIBRARIES = ("numpy", "pillow", "pyarrow", "scipy")  # that decode and hash pictures and write them


def fingerprint(
    raw: Path, sources: Mapping[str, Source], params: CandidateParams, rows_per_task: int
) -> str:
    """Return the SHA-256 of params, code, and names, sizes and times of all files that are read.

    The contents of the code count. Those of the files do not: to read terabytes once more would
    take as long as checking them. Raises ValueError when a source has no files.
    """
    settings = {name: source.model_dump() for name, source in sources.items()}
    digest = hashlib.sha256(json.dumps([settings, params.model_dump(), rows_per_task]).encode())
    for part in chain(_code(), _files(raw, sources, params.allowed_roots)):
        digest.update(f"{part}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _code() -> Iterator[str]:
    yield code_sha256([CODE])
    yield sys.version
    yield from map(version, LIBRARIES)


def _files(raw: Path, sources: Mapping[str, Source], allowed_roots: Sequence[str]) -> Iterator[str]:
    """Yield all files; places are as in the params: a raw folder that was moved is the same."""
    folders = set(map(pictures_source, EVALUATION_SPLITS))
    for source in sources.values():
        for place in matching_files(join(str(raw), source.files)):
            yield json.dumps([source.files, *state_of(place)])
        if not isinstance(source, WebdatasetSource) and source.pictures is not None:
            folders.add(source.pictures)

    # Several sources may have their pictures in one folder.
    for folder in sorted(folders):
        yield folder
        yield from map(json.dumps, list_files(join(str(raw), folder), allowed_roots))

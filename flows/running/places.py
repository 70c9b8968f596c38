"""Places that the jobs on a compressed corpus read when none are named: what `dvc repro` writes."""

from pathlib import Path

STORE, COMPRESSOR = Path("data/compressed/test"), Path("models/compressor")

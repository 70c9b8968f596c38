"""Default places of the jobs on a compressed corpus: outputs of `dvc repro`."""

from pathlib import Path

STORE, COMPRESSOR = Path("data/compressed/test"), Path("models/compressor")

"""What tells one training run from another."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from components.files.contents import contents_sha256
from components.methods.catalogue import code_of
from components.training.run_folder import HASHES, LIBRARIES
from components.training.training_settings import PLACEMENT, TrainParams


def run_name(
    params: TrainParams, curated: Path, base: str, state: Path, entries: Sequence[str]
) -> str:
    """A name for everything that decides the result: change any of it, and old checkpoints no longer fit.

    It is made of the params, the library versions, the contents of the inputs, and the contents of
    the modules that `entries` import; of the methods only the chosen one counts. It says nothing of
    times and places: `touch`, a checkout or a copy on another disk leave it. A base of the hub
    counts by its name and revision.
    """
    method = params.method
    settings = params.model_dump(mode="json", exclude={*PLACEMENT, "method"})
    chosen = [method.chosen.model_dump(mode="json"), method.num_module_steps]

    is_folder = Path(base).is_dir()
    inputs = contents_sha256([curated, *([Path(base)] if is_folder else [])], state / HASHES)
    inputs = inputs if is_folder else f"{inputs} {base}"

    parts = [settings, chosen, code_of(entries, method.name), inputs, *map(version, LIBRARIES)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

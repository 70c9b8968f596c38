"""The name of a training run, which tells it from every other."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from components.files.contents import contents_sha256
from components.methods.catalogue import code_of
from components.methods.method_settings import ChosenMethod
from components.training.run_folder import HASHES, LIBRARIES
from components.training.training_settings import PLACEMENT, TrainParams


def run_name(
    params: TrainParams,
    method: ChosenMethod,
    curated: Path,
    base: str,
    state: Path,
    entries: Sequence[str],
) -> str:
    """Name a run by everything that decides its result; with another name, checkpoints do not fit.

    The name is made of the params, the library versions, the contents of the inputs, and the
    contents of the modules that `entries` import; of the methods only the chosen one counts. It
    says nothing of times and places: `touch`, a checkout or a copy on another disk leave it. A base
    of the hub counts by its name and revision.
    """
    settings = params.model_dump(mode="json", exclude={*PLACEMENT, "method"})
    chosen = [method.model_dump(mode="json"), params.method.num_module_steps]

    # a base in a folder counts by its contents
    if Path(base).is_dir():
        inputs = contents_sha256([curated, Path(base)], state / HASHES)
    else:
        inputs = f"{contents_sha256([curated], state / HASHES)} {base}"

    parts = [settings, chosen, code_of(entries, method.name), inputs, *map(version, LIBRARIES)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

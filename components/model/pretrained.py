"""What transformers loads from a folder, without running any code of it, and refused where the library only reports.

A weight that a checkpoint lacks is drawn at random by `from_pretrained`, and one that the model
does not know is left out; both are a line in a log, and a model that says something else in every
process.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from components.model.model_files import COUNTERS, check_model_folder, check_settings_files, some_of

MAX_REASON = 240  # characters of what a library says
LOADER = "transformers.modeling_utils"  # the logger of `from_pretrained`
NO_CODE = {"trust_remote_code": False}  # not even when somebody at a terminal would say yes


def load_pretrained(kind: Any, folder: Path, **how: Any) -> Any:
    """A model of transformers' class `kind` with all of its weights, and none left over.

    `how` goes to `from_pretrained`. Raises ValueError when a file is not whole, or a weight is
    missing, of another shape, not of this model, or not finite.
    """
    check_model_folder(folder)
    with transformers_errors(folder, "model"), without_report():
        model, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report, by name
            output_loading_info=True,
            **NO_CODE,
            **how,
        )
    check_report(folder, report)
    check_finite(folder, model)
    return model


def outline_of(kind: Any, folder: Path) -> Any:
    """The model without values (device meta), checked as far as headers tell: no weight is read, no memory is taken.

    Raises ValueError as `load_pretrained` does, but for values that are not finite.
    """
    check_model_folder(folder)
    with transformers_errors(folder, "model"), without_report():
        model, report = kind.from_pretrained(
            folder,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            device_map={"": "meta"},
            attn_implementation="eager",  # asks no library for kernels
            **NO_CODE,
        )
    check_report(folder, report)
    return model


def read_model_config(folder: Path) -> Any:
    """The configuration of a model, as transformers reads it. Raises ValueError."""
    check_settings_files(folder)
    with transformers_errors(folder, "config.json"):
        return AutoConfig.from_pretrained(folder, **NO_CODE)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model, or one in a folder of its own. Raises ValueError."""
    with transformers_errors(folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(folder, **NO_CODE)


def load_image_processor(folder: Path) -> Any:
    """What prepares pictures for a model, computed with Pillow. Raises ValueError."""
    with transformers_errors(folder, "image processor"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **NO_CODE)


@contextmanager
def transformers_errors(folder: Path, part: str) -> Iterator[None]:
    """Turn what transformers and tokenizers raise for odd files, which is of any class, into one ValueError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{folder}: its {part} cannot be read: {reason_of(error)}; fetch the model again, or take one that "
            "transformers has a class for"
        ) from error


def reason_of(error: Exception) -> str:
    """What an exception of a library says, on one line and not without end."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:  # the library's own way out is none
        return "it needs code that comes with it, which is never run"
    # such as KeyError: 'x'
    named = said if " " in said else f"{type(error).__name__} {said}".strip()
    return named if len(named) <= MAX_REASON else f"{named[:MAX_REASON]}…"


@contextmanager
def without_report() -> Iterator[None]:
    """Leave out the progress bar, and the table of odd weights, which `check_report` says in a sentence."""
    logger, had_bar = logging.getLogger(LOADER), transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logger.addFilter(is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(is_no_report)
        if had_bar:
            transformers_logging.enable_progress_bar()


def is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def check_report(folder: Path, report: dict[str, Any]) -> None:
    """Raises ValueError with the names of weights that are missing, misshapen or left over; tied ones are not."""
    shapes = {
        name: f"{name} {tuple(found)} for {tuple(own)}"
        for name, found, own in report["mismatched_keys"]
    }
    missing = sorted(set(report["missing_keys"]) - shapes.keys())
    unexpected = sorted(name for name in report["unexpected_keys"] if not COUNTERS.search(name))
    found = {
        "missing, and would be random": missing,
        "of another shape than config.json says": [shapes[name] for name in sorted(shapes)],
        "not of this model": unexpected,
        "not read": sorted(report["error_msgs"]),
    }
    faults = [f"{len(names)} {what} ({some_of(names)})" for what, names in found.items() if names]
    if faults:
        raise ValueError(
            f"{folder}: weights do not fit the model: {'; '.join(faults)}; fetch the model again, or correct its "
            "config.json"
        )


@torch.no_grad()
def check_finite(folder: Path, model: Any) -> None:
    """Raises ValueError with the names of weights that hold infinities or no numbers."""
    odd = [
        name
        for name, weight in model.named_parameters()
        if weight.numel() and not is_finite(weight)
    ]
    if odd:
        raise ValueError(
            f"{folder}: {len(odd)} weights hold values that are not finite ({some_of(odd)}); fetch the model again, or "
            "load it in a number type that holds its values"
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Whether all values are; without a copy of them."""
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(weight))

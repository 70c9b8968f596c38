"""Loading by transformers without running any code of a folder, and saving.

A weight that a checkpoint lacks is drawn at random by `from_pretrained`, and one that the model
does not know is left out; both are a line in a log, and a model that says something else in every
process. Both are errors here.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import filterfalse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from components.model.model_files import COUNTERS, check_model_folder, check_settings_files, some_of

MAX_REASON = 240  # characters of a library's message that are repeated
LOADER = "transformers.modeling_utils"  # the logger of `from_pretrained`
NO_CODE = {"trust_remote_code": False}  # not even when somebody at a terminal would say yes


def load_pretrained(kind: Any, folder: Path, **how: Any) -> Any:
    """Load a model of transformers' class `kind` with all of its weights, and none left over.

    `how` goes to `from_pretrained`. Raises ValueError when a file is not whole, or a weight is
    missing, of another shape, not of this model, or not finite.
    """
    model = _load_checked(kind, folder, **how)
    check_finite(folder, model)
    return model


def outline_of(kind: Any, folder: Path) -> Any:
    """Load a model without values (device meta), checked as far as headers tell.

    No weight is read, no memory is taken. Raises ValueError as `load_pretrained` does, but for
    values that are not finite.
    """
    # Eager attention asks no library for kernels.
    return _load_checked(kind, folder, device_map={"": "meta"}, attn_implementation="eager")


def _load_checked(kind: Any, folder: Path, **how: Any) -> Any:
    """Load a model, and check its files before and transformers' report after it."""
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
    return model


def save_model(model: Any, folder: Path) -> None:
    """Save a model as a Hugging Face folder: config.json and safetensors."""
    with without_progress_bar():
        model.save_pretrained(folder)


def read_model_config(folder: Path) -> Any:
    """Read the configuration of a model, as transformers reads it. Raises ValueError."""
    check_settings_files(folder)
    with transformers_errors(folder, "config.json"):
        return AutoConfig.from_pretrained(folder, **NO_CODE)


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a model, or one in a folder of its own. Raises ValueError."""
    with transformers_errors(folder, "tokenizer"):
        return AutoTokenizer.from_pretrained(folder, **NO_CODE)


def load_image_processor(folder: Path) -> Any:
    """Load the image processor of a model, computed with Pillow. Raises ValueError."""
    with transformers_errors(folder, "image processor"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **NO_CODE)


@contextmanager
def transformers_errors(folder: Path, part: str) -> Iterator[None]:
    """Turn exceptions of transformers and tokenizers for odd files into one ValueError.

    They are of any class. Lack of memory is no fault of the files, and passes.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{folder}: its {part} cannot be read: {reason_of(error)}; "
            "fetch the model again, or take one that transformers has a class for"
        ) from error


def reason_of(error: Exception) -> str:
    """Return the message of a library's exception, on one line of bounded length."""
    message = " ".join(str(error).split())
    if "trust_remote_code" in message:  # the library's own way out is none
        return "it needs code that comes with it, which is never run"
    if " " not in message:  # such as KeyError: 'x'
        message = f"{type(error).__name__} {message}".strip()
    return message if len(message) <= MAX_REASON else f"{message[:MAX_REASON]}…"


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Leave out transformers' progress bars."""
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def without_report() -> Iterator[None]:
    """Leave out the progress bar, and the table of odd weights: `check_report` says it shorter."""
    logger = logging.getLogger(LOADER)
    logger.addFilter(is_no_report)
    try:
        with without_progress_bar():
            yield
    finally:
        logger.removeFilter(is_no_report)


def is_no_report(record: logging.LogRecord) -> bool:
    """Return whether a line of the log is anything but the table of odd weights."""
    return "LOAD REPORT" not in record.getMessage()


def check_report(folder: Path, report: dict[str, Any]) -> None:
    """Check that no weight is missing, misshapen or left over; tied weights may be missing.

    `report`: the loading info of `from_pretrained`. Raises ValueError with the names.
    """
    # A misshapen weight is among the missing ones, too; it is named once.
    shapes = {}
    for name, stored, own in report["mismatched_keys"]:
        shapes[name] = f"{name} {tuple(stored)} for {tuple(own)}"
    found = {
        "missing, and would be random": sorted(set(report["missing_keys"]) - shapes.keys()),
        "of another shape than config.json says": sorted(shapes.values()),
        "not of this model": sorted(filterfalse(COUNTERS.search, report["unexpected_keys"])),
        "not read": sorted(report["error_msgs"]),
    }

    # All kinds of faults at once: mending one does not lead to the next.
    faults = []
    for what, names in found.items():
        if names:
            faults.append(f"{len(names)} {what} ({some_of(names)})")
    if faults:
        raise ValueError(
            f"{folder}: weights do not fit the model: {'; '.join(faults)}; "
            "fetch the model again, or correct its config.json"
        )


@torch.no_grad()
def check_finite(folder: Path, model: Any) -> None:
    """Check that no weight holds infinities or NaN. Raises ValueError with the names."""
    odd = []
    for name, weight in model.named_parameters():
        if weight.numel() and not is_finite(weight):
            odd.append(name)
    if odd:
        raise ValueError(
            f"{folder}: {len(odd)} weights hold values that are not finite ({some_of(odd)}); "
            "fetch the model again, or load it in a number type that holds its values"
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Return whether all values are finite, without making a copy of them."""
    # NaN anywhere makes both of them NaN.
    lowest, highest = torch.aminmax(weight)
    return bool(lowest.isfinite() and highest.isfinite())

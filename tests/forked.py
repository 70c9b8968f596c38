"""Functions that end their process, in a copy of this one: nothing is imported again."""

import faulthandler
import multiprocessing
from collections.abc import Callable
from typing import Any


def exit_code_of(function: Callable[..., None], *arguments: Any) -> int:
    """Call a function in a process of its own; returns the exit code, of a signal negative."""
    process = multiprocessing.get_context("fork").Process(target=_call, args=(function, *arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _call(function: Callable[..., None], *arguments: Any) -> None:
    faulthandler.disable()  # a death that is wanted is no news
    function(*arguments)

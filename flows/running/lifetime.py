"""Lifetime of a stage: one that DVC started ends with the DVC that started it.

`kill -9` of `dvc repro` leaves the command of the stage running; it would keep writing outputs that
the next run has already deleted. `die_with_parent` closes that hole: the kernel kills the stage
with its parent (Linux), and a thread watches the whole chain above it (`make` > shell > `dvc` >
shell > stage), because a shell outlives its parent. A stage started by hand, under `nohup` or by
`ray job submit` has no DVC above it and is left alone.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

POLL_SECONDS = 0.5
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
RUNNERS = {"make", "gmake", "dvc"}


def die_with_parent() -> None:
    """Have this process and its children killed with the DVC that started it; call it first."""
    if "DVC_STAGE" not in os.environ:
        return

    # DVC may have ended before this process looks.
    ancestors = watched_ancestors(psutil.Process().parents())
    if not ancestors:
        sys.exit("the dvc process that started this stage is already gone: run `dvc repro` again")
    killed_with_parent()
    threading.Thread(target=_watch, args=(ancestors,), name="die-with-parent", daemon=True).start()


def killed_with_parent() -> None:
    """Have the kernel (Linux) kill this process with its parent; for `preexec_fn`, too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watched_ancestors(parents: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return the processes, nearest first, whose death means that nobody waits for this stage.

    These are all up to the DVC process, and above it the `make` or outer `dvc` that runs it, but no
    interactive shell; none when no DVC is among them.
    """
    words = [_words(parent) for parent in parents]
    dvc = next((i for i, found in enumerate(words) if "dvc" in found or _is_python(found)), None)
    if dvc is None:
        return []

    # A shell between two runners counts, one above the last does not.
    last = dvc
    for i in range(dvc + 1, len(words)):
        if not words[i] & (SHELLS | RUNNERS):
            break
        if words[i] & RUNNERS:
            last = i
    return list(parents[: last + 1])


def _words(process: psutil.Process) -> set[str]:
    """Return the names of a process: its program, and the script that an interpreter runs."""
    try:
        return {os.path.basename(word).lstrip("-") for word in process.cmdline()[:3]}
    except psutil.Error:
        return set()


def _is_python(words: set[str]) -> bool:
    return any(word.startswith("python") for word in words)


def _watch(ancestors: Sequence[psutil.Process]) -> None:
    while all(_is_alive(ancestor) for ancestor in ancestors):
        time.sleep(POLL_SECONDS)

    # Nothing may write outputs any longer: neither the children nor this process.
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False

"""Causes of a command's failure, and the way out, in words.

Ray wraps what a worker raised in layers of text and ends them with hints about itself, so the cause
is looked for there; Ray is not imported for that.
"""

import builtins
import errno
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

AGAIN = "give the same command again, what is finished is kept"
MEMORY = "use fewer workers or smaller batches (params.yaml), or a machine with more"
BUG = "this is a fault of fwd2bot or of a library, the lines above say where; please report them"
FULL = {errno.ENOSPC, errno.EDQUOT}
FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|local disk.{0,40} full|out of disk", re.IGNORECASE
)
FULL_BYTES = 16 << 20  # a disk with less is taken for the full one, where the error names none
WAYS_OUT = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another file system",
    errno.EIO: "the disk or the network mount fails; look at it, then give the same command again",
    errno.ESTALE: "mount the folder again, then give the same command again",
    errno.EMFILE: "raise the limit of open files: ulimit -n 65536",
    errno.ENFILE: "raise the limit of open files of the machine",
    errno.ENAMETOOLONG: "use shorter names",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.ENOMEM: MEMORY,
}
# Errors of Ray itself; errors of our code that it passes on are looked for in its text.
LOST_NODES = {
    "NodeDiedError",
    "LocalRayletDiedError",
    "ObjectLostError",
    "OwnerDiedError",
    "ObjectFetchTimedOutError",
}
LOST_WORKERS = {"WorkerCrashedError", "RayActorError", "ActorDiedError", "ActorUnavailableError"}
FULL_DISKS = {"OutOfDiskError"}
WRAPPERS = {"UserCodeException", "RayDataUserCodeException", "RayTaskError", "SystemException"}

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NEXT_ERROR = re.compile(
    r"\n\s*\n(?:The above exception was the direct cause of the following exception|"
    r"During handling of the above exception, another exception occurred):\s*\n"
)
FRAME = re.compile(r'^\s+File ".*", line \d+(, in .*)?$', re.MULTILINE)
BEFORE_THE_ERROR = re.compile(r"^(\s.*|.*\bray::.*|Traceback \(most recent call last\):.*|)$")
NAMED = re.compile(r"^([A-Za-z_][\w.]*)(?:\(\w+\))?(?:: ?(.*))?$", re.DOTALL)
ERRNO = re.compile(r"^\[Errno (\d+)\] (.*?)(?:: '(.+?)'(?: -> '.+')?)?$", re.DOTALL)
ANY_ERRNO = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)
QUOTED = re.compile(r"'([^'\n]*/[^'\n]*)'|\"([^\"\n]*/[^\"\n]*)\"")


class Cause(NamedTuple):
    """An error, as a traceback names it."""

    name: str  # of the class, with its module unless that is `builtins`
    message: str

    @property
    def kind(self) -> str:
        """Name of the class without its module."""
        return self.name.rpartition(".")[2]


def describe(cause: Cause) -> str:
    """Return cause and way out as one line; a message of several lines stays one."""
    kind, message = cause.kind, cause.message.strip()

    # disks and memory
    if _is_full(message) or kind in FULL_DISKS:
        return f"the disk under {_full_place(message)} is full; free some of it, then {AGAIN}"
    if kind == "OutOfMemoryException":  # of DuckDB, which says of which limit
        return f"{message}; raise curate.memory_limit in params.yaml"
    if kind.endswith("MemoryError"):
        return f"out of memory ({_first_line(message) or kind}); {MEMORY}"

    # machines and workers
    is_node_lost = kind in LOST_WORKERS and re.search(r"\bnode\b.{0,30}\bdied\b", message)
    if kind in LOST_NODES or is_node_lost:
        return f"a machine of the cluster, or Ray on it, was lost ({_first_line(message)}); {AGAIN}"
    if kind in LOST_WORKERS:
        how = _exit_type(message)
        return f"a worker was killed, for its memory or by hand ({how}); {AGAIN}, or {MEMORY}"

    # our code
    if is_bug(cause):
        return f"{cause.name}: {message}; {BUG}"
    return _system_message(message)


def cause_of(error: BaseException) -> Cause:
    """Return the cause of an error; if Ray passed it on, the error that our code raised."""
    # Ray Train: its errors hold the errors of its workers
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, BaseException):
        return cause_of(inner)
    failures = getattr(error, "worker_failures", None)
    if isinstance(failures, dict) and failures:
        # {rank: error}: when one fails, others lose their connection to it
        found = [cause_of(failures[rank]) for rank in sorted(failures)]
        return next((cause for cause in found if not is_bug(cause)), found[0])

    # Ray Core and Data: the error of a worker is in the text
    if any(base.__module__.partition(".")[0] == "ray" for base in type(error).__mro__):
        return cause_in(str(error)) or Cause(_name(type(error)), str(error))

    # Errors of others that the user can mend count as ValueError.
    if isinstance(error, subprocess.CalledProcessError):
        command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
        message = f"`{command}` ended with {error.returncode}; what it printed says why"
        return Cause("ValueError", message)
    if type(error).__module__.partition(".")[0].startswith("pydantic"):
        return Cause("ValueError", _schema_faults(error))
    return Cause(_name(type(error)), str(error))


def cause_in(text: str) -> Cause | None:
    """Return the error of our code in a text of Ray: the last of a chain without its wrapping."""
    causes = []
    for block in NEXT_ERROR.split(COLOUR.sub("", text).strip()):
        cause = _last_error(block)
        if cause and cause.kind not in WRAPPERS:
            causes.append(cause)

    # A full disk makes other errors follow.
    full = [cause for cause in causes if _is_full(cause.message)]
    return next(reversed(full or causes), None)


def is_bug(cause: Cause) -> bool:
    """Return whether only a programmer can mend it."""
    if cause.kind.endswith("MemoryError") or _is_full(cause.message):
        return False
    if cause.kind in LOST_NODES | LOST_WORKERS | FULL_DISKS:
        return False
    if cause.name.startswith(("ray.", "duckdb.", "_duckdb.")) and cause.kind not in WRAPPERS:
        return False

    # ValueError and OSError, and classes below them, are faults of what the user gave.
    module, _, name = cause.name.rpartition(".")
    found = getattr(sys.modules.get(module or builtins.__name__), name, None)
    return not (isinstance(found, type) and issubclass(found, ValueError | OSError))


def _last_error(block: str) -> Cause | None:
    """Return the error of one traceback; inside may stand another, of a worker of a worker."""
    # The name of the error stands behind the last frame and the lines of code below it.
    frames = list(FRAME.finditer(block))
    lines = (block[frames[-1].end() :] if frames else block).lstrip("\n").splitlines()
    while lines and BEFORE_THE_ERROR.match(lines[0]):
        lines.pop(0)
    match = NAMED.match("\n".join(lines).rstrip())
    if not match:
        return None

    # Any text may have this form.
    name, message = match.group(1), match.group(2) or ""
    is_builtin = isinstance(getattr(builtins, name, None), type)
    is_error = "." in name or is_builtin or name.endswith(("Error", "Exception"))
    return Cause(name, message) if is_error else None


def _system_message(message: str) -> str:
    """Return an error of the operating system as `PLACE: reason; way out`, others as they are."""
    match = ERRNO.match(message)
    if not match:
        return message

    number, reason, place = int(match.group(1)), match.group(2), match.group(3)
    told = f"{place}: {reason[:1].lower()}{reason[1:]}" if place else reason
    return f"{told}; {WAYS_OUT[number]}" if number in WAYS_OUT else told


def _is_full(message: str) -> bool:
    found = ANY_ERRNO.search(message)
    return bool(FULL_WORDS.search(message)) or (found is not None and int(found.group(1)) in FULL)


def _full_place(message: str) -> str:
    """Return the path that a message names, else the full one of the places of this command."""
    if named := QUOTED.search(message):
        return named.group(1) or named.group(2)

    # The message of a library may name none: then a place of this command with hardly any room.
    for word in (*sys.argv[:0:-1], tempfile.gettempdir(), os.curdir):  # outputs stand last
        place = Path(os.path.abspath(word))
        existing = next(path for path in (place, *place.parents) if path.exists())
        with suppress(OSError):
            room = os.statvfs(existing)
            if room.f_bavail * room.f_frsize < FULL_BYTES:
                return str(existing)
    return "the output, or under the folder for temporary files,"


def _exit_type(message: str) -> str:
    """Return how a worker ended, as far as Ray knows, without its guesses."""
    found = re.search(r"Worker exit type: (\w+)", message)
    return found.group(1) if found else _first_line(message)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0].strip()


def _schema_faults(error: Any) -> str:
    """Return the faults that pydantic found, each with its place, as one line."""
    faults = []
    for fault in error.errors(include_url=False):
        place = ".".join(map(str, fault["loc"]))
        faults.append(f"{place}: {fault['msg']}")
    return f"{error.title}: " + "; ".join(faults)


def _name(kind: type) -> str:
    is_builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"

"""How a command ends: with its result, or with one last line `JOB: cause; way out` on stderr.

    @ending("compress")
    def main(…): …

What the user can mend (ValueError, OSError, a full disk, too little memory, lost workers and nodes)
is that line alone, exit 1. Ctrl-C ends with 130, SIGTERM with 143, a closed pipe (`search … | head
-1`) with 141 and nothing. Anything else is a fault of ours: its traceback, then the line. Ray wraps
what a worker raised in layers of text and ends them with hints about itself, so the cause is looked
for there; Ray is not imported for that.
"""

import builtins
import errno
import io
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer

INTERRUPTED, CLOSED_PIPE, TERMINATED = (
    128 + number for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
)
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
# What Ray says of itself, by the name of its error; what it says of our code is looked for below.
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


_running: list[str] = []  # jobs, the innermost last


class Terminated(BaseException):
    """SIGTERM came."""


class Cause(NamedTuple):
    """What went wrong, as a traceback names it."""

    name: str  # of the class, with its module unless that is `builtins`
    message: str


@contextmanager
def ending(job: str) -> Iterator[None]:
    """End the process as a command should when what runs inside raises; `job` is what its last line begins with."""
    _open_streams()
    with _sigterm_raises(), _named(job):
        try:
            yield
            sys.stdout.flush()
        except (SystemExit, typer.Exit, typer.Abort):
            raise
        except Terminated:
            _end(f"{job}: ended by SIGTERM; {AGAIN}", TERMINATED)
        except KeyboardInterrupt:
            _end(f"{job}: interrupted; {AGAIN}", INTERRUPTED)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                _end("", CLOSED_PIPE)
            if type(error).__module__.startswith(("click", "typer")):
                raise  # wrong options: usage, exit 2
            if is_bug(cause := cause_of(error)):
                traceback.print_exception(error)
            _end(f"{job}: {describe(cause)}", 1)


def lost(what: str) -> NoReturn:
    """End this process from any thread, since what it cannot work without is gone."""
    line = f"{what} was lost, for its memory or by hand; {AGAIN}"
    print(f"{': '.join([*_running[-1:], line])}", file=sys.stderr, flush=True)
    os._exit(1)


def describe(cause: Cause) -> str:
    """Cause and way out as one line; a message of several lines stays one."""
    kind, message = cause.name.rsplit(".", 1)[-1], cause.message.strip()
    if _is_full(message) or kind in FULL_DISKS:
        return f"the disk under {_full_place(message)} is full; free some of it, then {AGAIN}"
    if kind == "OutOfMemoryException":  # of DuckDB, which says of which limit
        return f"{message}; raise curate.memory_limit in params.yaml"
    if kind.endswith("MemoryError"):
        return f"out of memory ({_first_line(message) or kind}); {MEMORY}"
    if kind in LOST_NODES or (
        kind in LOST_WORKERS and re.search(r"\bnode\b.{0,30}\bdied\b", message)
    ):
        return f"a machine of the cluster, or Ray on it, was lost ({_first_line(message)}); {AGAIN}"
    if kind in LOST_WORKERS:
        return f"a worker was killed, for its memory or by hand ({_exit_of(message)}); {AGAIN}, or {MEMORY}"
    if is_bug(cause):
        return f"{cause.name}: {message}; {BUG}"
    return _of_system(message)


def cause_of(error: BaseException) -> Cause:
    """What made a command fail: of an error that Ray passed on, what our code raised in the worker."""
    inner = getattr(error, "controller_failure", None)
    if isinstance(inner, BaseException):
        return cause_of(inner)
    failures = getattr(error, "worker_failures", None)
    # {rank: error}: when one fails, others lose their connection to it
    if isinstance(failures, dict) and failures:
        found = [cause_of(failures[rank]) for rank in sorted(failures)]
        return next((cause for cause in found if not is_bug(cause)), found[0])
    if any(base.__module__.partition(".")[0] == "ray" for base in type(error).__mro__):
        return cause_in(str(error)) or Cause(_name(type(error)), str(error))
    if isinstance(error, subprocess.CalledProcessError):
        command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
        return Cause(
            "ValueError", f"`{command}` ended with {error.returncode}; what it printed says why"
        )
    if type(error).__module__.partition(".")[0].startswith("pydantic"):
        return Cause("ValueError", _faults_of(error))
    return Cause(_name(type(error)), str(error))


def cause_in(text: str) -> Cause | None:
    """The error of our code in what Ray made of it: the last of a chain that is not Ray's own wrapping."""
    found = [_last_error(block) for block in NEXT_ERROR.split(COLOUR.sub("", text).strip())]
    told = [cause for cause in found if cause and cause.name.rsplit(".", 1)[-1] not in WRAPPERS]
    return next(
        (cause for cause in reversed(told) if _is_full(cause.message)), told[-1] if told else None
    )


def is_bug(cause: Cause) -> bool:
    """Whether only a programmer can mend it."""
    kind = cause.name.rsplit(".", 1)[-1]
    if (
        kind.endswith("MemoryError")
        or _is_full(cause.message)
        or kind in LOST_NODES | LOST_WORKERS | FULL_DISKS
    ):
        return False
    if cause.name.startswith(("ray.", "duckdb.", "_duckdb.")) and kind not in WRAPPERS:
        return False
    module, _, name = cause.name.rpartition(".")
    found = getattr(sys.modules.get(module or builtins.__name__), name, None)
    return not (isinstance(found, type) and issubclass(found, ValueError | OSError))


def _last_error(block: str) -> Cause | None:
    """One traceback without its frames; inside it may stand another, of a worker that a worker asked."""
    frames = list(FRAME.finditer(block))
    lines = (block[frames[-1].end() :] if frames else block).lstrip("\n").splitlines()
    while lines and BEFORE_THE_ERROR.match(lines[0]):
        lines.pop(0)
    match = NAMED.match("\n".join(lines).rstrip())
    if not match:
        return None
    name, message = match.group(1), match.group(2) or ""
    is_error = (
        "." in name
        or isinstance(getattr(builtins, name, None), type)
        or name.endswith(("Error", "Exception"))
    )
    return Cause(name, message) if is_error else None


def _of_system(message: str) -> str:
    """An error of the operating system as `PLACE: reason; way out`; other messages are whole already."""
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
    """The path that the message names, else the full one of the places that this command writes to."""
    if named := QUOTED.search(message):
        return named.group(1) or named.group(2)
    for word in (*sys.argv[:0:-1], tempfile.gettempdir(), os.curdir):  # outputs stand last
        place = Path(os.path.abspath(word))
        existing = next(path for path in (place, *place.parents) if path.exists())
        with suppress(OSError):
            room = os.statvfs(existing)
            if room.f_bavail * room.f_frsize < FULL_BYTES:
                return str(existing)
    return "the output, or under the folder for temporary files,"


def _exit_of(message: str) -> str:
    """What Ray knows of the end of a worker, without its guesses."""
    found = re.search(r"Worker exit type: (\w+)", message)
    return found.group(1) if found else _first_line(message)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0].strip()


def _faults_of(error: Any) -> str:
    """A file that does not fit its schema, as pydantic found it; one fault each."""
    faults = [
        (".".join(map(str, fault["loc"])), fault["msg"])
        for fault in error.errors(include_url=False)
    ]
    return f"{error.title}: " + "; ".join(f"{place}: {reason}" for place, reason in faults)


def _name(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds this thread, so that files are closed and Ray ends its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows is the way out
        raise Terminated

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) == unwind:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _named(job: str) -> Iterator[None]:
    _running.append(job)
    try:
        yield
    finally:
        _running.pop()


def _open_streams() -> None:
    """Streams for those that the caller has closed (`>&-`), else a file of ours gets their number and what is printed.

    Names of files may hold what the locale cannot say; it is escaped.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has gone."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    asked = select.poll()
    asked.register(number, 0)  # errors are told in any case
    is_closed = any(event & select.POLLERR for _, event in asked.poll(0))
    if is_closed:
        # else Python says it again when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return is_closed


def _is_own_process() -> bool:
    """Return whether this process is a command: `python -m flows.X`, or `fwd2bot`."""
    command = sys.modules["__main__"].__spec__
    name = command.name if command else Path(sys.argv[0]).stem
    return name.partition(".")[0] in ("flows", "fwd2bot")


def _end(line: str, status: int) -> NoReturn:
    """Say the line, behind all that Ray still has to say, and exit."""
    ray = sys.modules.get("ray")
    if ray and _is_own_process():  # else Ray belongs to somebody else
        with suppress(Exception):
            ray.shutdown()
    with suppress(OSError):  # stderr may be a closed pipe, too
        if line:
            print(line, file=sys.stderr, flush=True)
    sys.exit(status)

"""Endings: a command ends with its result, or with one last line `JOB: cause; way out` on stderr.

    @ending("compress")
    def main(…): …

What the user can mend (ValueError, OSError, a full disk, too little memory, lost workers and nodes)
is that line alone, exit 1. Ctrl-C ends with 130, SIGTERM with 143, a closed pipe (`… | head -1`)
with 141 and nothing. Anything else is a fault of ours: its traceback, then the line.
"""

import io
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import typer

from flows.running.causes import AGAIN, cause_of, describe, is_bug

INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE
TERMINATED = 128 + signal.SIGTERM

_running: list[str] = []  # jobs, the innermost last


class Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def ending(job: str) -> Iterator[None]:
    """End the process as a command should when its body raises; `job` begins its last line."""
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
            # A reader who has seen enough, and wrong options, are no failures.
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                _end("", CLOSED_PIPE)
            if type(error).__module__.startswith(("click", "typer")):
                raise  # usage, exit 2

            if is_bug(cause := cause_of(error)):
                traceback.print_exception(error)
            _end(f"{job}: {describe(cause)}", 1)


def lost(what: str) -> NoReturn:
    """End this process from any thread, since something is gone that it cannot work without."""
    line = f"{what} was lost, for its memory or by hand; {AGAIN}"
    print(f"{': '.join([*_running[-1:], line])}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Unwind this thread at SIGTERM, so that files are closed and Ray ends its processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # An exception, where the default would end the process at once.
    def unwind(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows is the way out
        raise Terminated

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        # Somebody may have taken the signal since.
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
    """Open the streams that the caller has closed (`>&-`), and let them escape what a locale lacks.

    A file of ours would get the number of a closed stream, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        # the number, for what writes to it directly
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)

        # the stream of Python, which is None if its number was closed at the start
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _nobody_reads() -> bool:
    """Return whether stdout is a pipe whose reader has gone; then drop what is left to print."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return False

    # A pipe without a reader is in error.
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
    """Exit with a last line, behind all that Ray still has to say."""
    ray = sys.modules.get("ray")
    if ray and _is_own_process():  # else Ray belongs to somebody else
        with suppress(Exception):
            ray.shutdown()
    with suppress(OSError):  # stderr may be a closed pipe, too
        if line:
            print(line, file=sys.stderr, flush=True)
    sys.exit(status)

"""Copy of the repository in which a sweep runs its experiments, one after another.

It is a clone of the last commit in .dvc/tmp/sweep that shares the cache. So a kill at any moment
leaves nothing behind in the repository itself, files may be edited while a sweep runs, data need
not be checked out for every run, and an unfinished training goes on from its last checkpoint.
Finished experiments are fetched into the repository.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from components.files.locks import locked
from flows.running.lifetime import killed_with_parent
from flows.sweeping.sweep_experiments import REFS, git

STATE = Path(".dvc/tmp")
PLACE, LOGS, LOCK = STATE / "sweep", STATE / "sweep-logs", STATE / "sweep.lock"
STAGE = re.compile(r"Running stage '(.+)':")
ATTEMPT = "attempt"  # the first line of each in a log
UNFINISHED = (".cache", "*.partial", "*.staging")  # stays in the copy, whatever a commit ignores
PATIENCE = 60  # seconds that DVC may take to end after Ctrl-C


def only_sweep() -> AbstractContextManager[None]:
    """Hold the lock of sweeps in this repository. Raises BusyError."""
    return locked(LOCK, "another sweep is at work in this repository; wait for it, or stop it")


class SweepCopy(NamedTuple):
    """Clone at the commit that experiments start from."""

    folder: Path
    commit: str

    @classmethod
    def prepare(cls) -> "SweepCopy":
        """Make a fresh clone around the data of an older one."""
        if git("status", "--porcelain", "--untracked-files=no"):
            print(
                "sweep: there are uncommitted changes; "
                "experiments start from the last commit, without them"
            )
        commit = git("rev-parse", "HEAD")
        cache = subprocess.check_output(["dvc", "cache", "dir"], text=True).strip()

        # What git knows is made anew, as a kill may have left anything; data stay where they are.
        for name in (".git", ".dvc", ".clone"):
            shutil.rmtree(PLACE / name, ignore_errors=True)
        git("clone", "--quiet", "--shared", "--no-checkout", ".", str(PLACE / ".clone"))
        (PLACE / ".clone" / ".git").rename(PLACE / ".git")
        (PLACE / ".clone").rmdir()
        copy = cls(PLACE.resolve(), commit)

        # Experiments are commits, and a clone does not inherit whose.
        for key in ("user.name", "user.email"):
            value = subprocess.run(
                ["git", "config", key], check=False, stdout=subprocess.PIPE, text=True
            ).stdout.strip()
            if value:
                git("config", key, value, folder=copy.folder)

        # With one cache no stage is computed twice, and results need no copy.
        copy.clean()
        share_cache = ["dvc", "config", "--local", "cache.dir", str(Path(cache).resolve())]
        subprocess.run(share_cache, cwd=PLACE, check=True)
        return copy

    def clean(self) -> None:
        """Check out the files of the commit, with new times; data and unfinished work stay.

        What git does not know and does not ignore is removed.
        """
        git("checkout", "--quiet", "--force", "--detach", self.commit, folder=self.folder)
        kept = [f"--exclude={name}" for name in UNFINISHED]
        git("clean", "--quiet", "--force", "-d", *kept, folder=self.folder)

    def run(self, name: str, arguments: Sequence[str]) -> bool:
        """Run one experiment and fetch it; returns False when it failed.

        Ctrl-C lets DVC end first, then ends this process.
        """
        self.clean()
        LOGS.mkdir(parents=True, exist_ok=True)

        # The code of the copy comes first, and lines arrive when they are written.
        search = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": search, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            ["dvc", "exp", "run", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=killed_with_parent,
        )

        # Ctrl-C reaches DVC as well, since it belongs to the same group of processes.
        try:
            follow(process, log_of(name))
        except KeyboardInterrupt:
            end(process)
            sys.exit("sweep: interrupted; the same command goes on with what is missing")
        return process.wait() == 0 and self.fetch(name)

    def fetch(self, name: str) -> bool:
        """Bring an experiment into the repository; returns False when there is none."""
        ref = f"{REFS}/{self.commit[:2]}/{self.commit[2:]}/{name}"
        if not git("for-each-ref", ref, folder=self.folder):
            return False
        git("fetch", "--quiet", "--no-write-fetch-head", str(self.folder), f"+{ref}:{ref}")
        return True


def follow(process: subprocess.Popen[str], log: Path) -> None:
    """Print the output of a process, and log it with the seconds since its start."""
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as kept:
        kept.write(f"{0:9.1f} {ATTEMPT}\n")
        for line in process.stdout or ():
            print(line, end="", flush=True)
            kept.write(f"{time.monotonic() - start:9.1f} {line.rstrip()}\n")
            # A kill loses no line.
            kept.flush()


def end(process: subprocess.Popen[str]) -> None:
    """Wait for a process that has been interrupted as well; not for ever."""
    try:
        process.communicate(timeout=PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def log_of(name: str) -> Path:
    """Return where the log of an experiment is kept."""
    return LOGS / f"{name}.log"


def stage_seconds(name: str) -> dict[str, float]:
    """Add up the seconds of each stage of an experiment that ran, over all attempts.

    Empty without a log.
    """
    log, seconds = log_of(name), dict[str, float]()
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []

    # One more attempt at the end, so that the last stage ends too.
    stage, since, last = "", 0.0, 0.0
    for line in [*lines, f"0 {ATTEMPT}"]:
        at, _, text = line.strip().partition(" ")
        if not text:
            continue

        # A stage ends when the next starts, or with the last line of its attempt.
        started = STAGE.match(text)
        if stage and (started or text == ATTEMPT):
            until = float(at) if started else last
            seconds[stage] = round(seconds.get(stage, 0.0) + until - since, 1)
            stage = ""
        if started:
            stage, since = started[1], float(at)
        last = float(at)
    return seconds

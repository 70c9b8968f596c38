"""A repository of its own with the files that git has of this one, and commands in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(folder: Path, *command: str, expected: int = 0, **variables: str) -> str:
    """What a command prints; it must end with the expected status."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == expected, f"{' '.join(command)}\n{done.stdout[-6000:]}"
    return done.stdout


def environment(**variables: str) -> dict[str, str]:
    """Of a command that finds the programs of this Python, and lines of which arrive at once."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"} | variables


def tracked(*folders: str) -> list[str]:
    """Files that git has, or would have with everything committed."""
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    names = run(ROOT, *listed, *folders).split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def copy_tracked(folder: Path, *folders: str) -> None:
    """Copy what git has of this repository, or of some of its files and folders."""
    for name in tracked(*folders):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "--quiet", "-m", message)

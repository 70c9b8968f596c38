"""How commands end: what users see last, and what the shell gets."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner

from flows.running.endings import ending
from fwd2bot.commands import app

ROOT = Path(__file__).parents[3]
WITHOUT_ARGUMENTS = {"check", "preset", "search"}  # commands that may be given none
COMMANDS = sorted(
    command.name or command.callback.__name__
    for command in app.registered_commands
    if command.callback
)
GROUPS = [group.name for group in app.registered_groups]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_usage_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [name, "--help"])
    assert (result.exit_code, "Usage" in result.output) == (0, True)
    for arguments in (
        ["--no-such-option"],
        ["a"] * 20,
        *([] if name in WITHOUT_ARGUMENTS else [[]]),
    ):
        result = CliRunner().invoke(app, [name, *arguments])
        assert (result.exit_code, "Usage" in result.output) == (2, True), arguments
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", GROUPS)
def test_help_of_commands_with_subcommands_is_usage(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert (result.exit_code, "Usage" in result.output) == (0, True)
    assert CliRunner().invoke(app, [name, "nothing"]).exit_code == 2


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            ValueError("/data/x.tar: is cut short; restore it"),
            "job: /data/x.tar: is cut short; restore it",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/out"),
            "job: the disk under /data/out is full; ",
        ),
        (
            OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left"),
            "is full; free some",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            "job: /out: permission denied; change its perm",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/out"),
            "job: /out: read-only file system; choose a place",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/q"),
            "job: /q: no such file or directory",
        ),
        (
            MemoryError("Unable to allocate 3 GiB"),
            "job: out of memory (Unable to allocate 3 GiB); use fewer workers",
        ),
        (MemoryError(), "job: out of memory (MemoryError); "),
        (subprocess.CalledProcessError(3, ["dvc", "status"]), "job: `dvc status` ended with 3; "),
        (KeyError("depth"), "job: KeyError: 'depth'; this is a fault of fwd2bot"),
    ],
)
def test_error_ends_with_one_line_and_exit_1(
    error: Exception, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, ending("job"):
        raise error
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.strip().splitlines()[-1].startswith("job: ")
    assert line in said.strip().splitlines()[-1]
    assert ("Traceback" in said) == isinstance(error, KeyError)


def test_ctrl_c_ends_with_130(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, ending("job"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert last_line(capfd).startswith("job: interrupted; ")


def test_sigterm_ends_with_143_and_leaves_the_handler_as_it_was(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ending("job"):
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    assert last_line(capfd).startswith("job: ended by SIGTERM; ")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault_and_no_file_gets_their_number(
    closed: str, tmp_path: Path
) -> None:
    script = (
        "from flows.running.endings import ending\n"
        "with ending('job'):\n"
        "    with open('table', 'w') as table:\n"
        "        assert table.fileno() > 2\n"
        "        print('done')\n"
    )
    command = f'"$0" -c "$1" {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        ["bash", "-c", command, sys.executable, script], cwd=tmp_path, env=environment
    )
    assert (ended.returncode, (tmp_path / "table").read_text()) == (0, "")


def test_a_name_that_the_locale_cannot_say_is_escaped(tmp_path: Path) -> None:
    script = "from flows.running.endings import ending\nwith ending('job'):\n    print('\\udcff')\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"\\udcff\n")


def test_closed_pipe_is_quiet() -> None:
    code = (
        "from flows.running.endings import ending\nwith ending('job'):\n    print('x\\n' * 99999)"
    )
    command = f'"{sys.executable}" -c "$0" | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command, code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["x", "141"], "")


def failing(error: Exception) -> Callable[[str], int]:
    def fail(_: str) -> int:
        raise error

    return fail


@pytest.mark.slow
def test_what_fails_in_a_real_worker_is_the_last_line(
    local_ray: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.running.cluster import run_tasks

    class FailsToStart:
        def __init__(self) -> None:
            raise ValueError("/models/x: cannot be loaded")

        def __call__(self, row: dict[str, str]) -> dict[str, str]:
            return row

    def start_an_actor() -> None:
        list(
            ray.data.from_items([{"x": 1}])
            .map(FailsToStart, compute=ray.data.ActorPoolStrategy(size=1))
            .iter_rows()
        )

    full = OSError(errno.ENOSPC, "No space left on device", "/out/x")
    for work, line in (
        (
            lambda: list(run_tasks(failing(ValueError("/data/x.tar: is cut short")), ["a"], 1)),
            "/data/x.tar: is cut",
        ),
        (lambda: list(run_tasks(failing(full), ["a"], 1)), "the disk under /out/x is full; "),
        (start_an_actor, "/models/x: cannot be loaded"),
        (
            lambda: ray.get(ray.remote(failing(ValueError("/plain: task"))).remote("")),
            "/plain: task",
        ),
    ):
        with pytest.raises(SystemExit), ending("job"):
            work()
        assert last_line(capfd).startswith(f"job: {line}")

"""How commands end: what users see last, and what the shell gets."""

import errno
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import ray
import typer
from ray import exceptions
from typer.testing import CliRunner

from flows.running.cluster import check_address, check_temporary_folder
from flows.running.endings import cause_in, cause_of, describe, ending

ROOT = Path(__file__).parents[3]
MAINS = [
    *(
        "scenes",
        "curate",
        "pretrain",
        "train",
        "evaluate",
        "codecs",
        "inspect",
        "report",
        "compress",
        "check",
    ),
    *(
        "answer",
        "answer_corpus",
        "export_vllm",
        "graft",
        "plan",
        "recode",
        "search",
        "verify",
    ),
]
WITHOUT_ARGUMENTS = {"check", "search"}  # commands that may be given none
HINT = """
ray.exceptions.UserCodeException: UDF failed to process a data block.
Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).
To change retry attempts, backoff, or which errors are retried, configure `ray.data.DataContext.get_current()`."""
AFTER = "\n\nThe above exception was the direct cause of the following exception:\n\n"
HEADER = "\x1b[36mray::Map(run)()\x1b[39m (pid=8380, ip=127.0.0.1)\n"
FRAME = '  File "/code/cluster.py", line 52, in run\n    return {"number": task(row["piece"])}\n           ^^^^^^\n'
DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: MapWorker(Map(C))
\tpid: 8648
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker
unexpectedly exits with a connection error code 2."""


def app_of(module: ModuleType) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(module.main)
    return app


@pytest.mark.parametrize("name", MAINS)
def test_help_is_usage_and_writes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"flows.{name}")
    assert module.__doc__
    result = CliRunner().invoke(app_of(module), ["--help"])
    assert (result.exit_code, "Usage" in result.output) == (0, True)
    for arguments in (
        ["--no-such-option"],
        ["a"] * 20,
        *([] if name in WITHOUT_ARGUMENTS else [[]]),
    ):
        result = CliRunner().invoke(app_of(module), arguments)
        assert (result.exit_code, "Usage" in result.output) == (2, True), arguments
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["index", "sweep"])
def test_help_of_commands_with_subcommands_is_usage(name: str) -> None:
    app = importlib.import_module(f"flows.{name}").app
    result = CliRunner().invoke(app, ["--help"])
    assert (result.exit_code, "Usage" in result.output) == (0, True)
    assert CliRunner().invoke(app, ["nothing"]).exit_code == 2


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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEADER + FRAME + "ValueError: /data/x.tar: is cut short" + AFTER + HEADER + HINT, "/data/x.tar: is cut short"),
        (HEADER + FRAME + "ValueError: two\nlines: of it" + AFTER + HEADER + HINT, "two\nlines: of it"),
        (
            HEADER + "OSError: [Errno 28] No space left on device: '/out/x'" + AFTER + HEADER + FRAME
            + "RuntimeError: wrapped" + AFTER + HEADER + HINT,
            "the disk under /out/x is full",
        ),
        (
            HEADER + FRAME + "ray.exceptions.RayTaskError(ValueError): " + HEADER + FRAME + "ValueError: /inner: nested"
            + AFTER + HEADER + HINT,
            "/inner: nested",
        ),
        (
            "The actor died because of an error raised in its creation task, " + HEADER + FRAME
            + "components.store.provenance.StoreError: /models: bad",
            "/models: bad",
        ),
        (HEADER + FRAME + "numpy._core._exceptions._ArrayMemoryError: Unable to allocate", "out of memory (Unable to"),
        (HEADER + FRAME + "MemoryError" + AFTER + HEADER + HINT, "out of memory (MemoryError)"),
        (HEADER + FRAME + "KeyError: 'x'", "KeyError: 'x'; this is a fault of fwd2bot"),
    ],
)  # fmt: skip
def test_cause_of_a_worker_is_found_behind_what_ray_says(text: str, line: str) -> None:
    import components.store.provenance  # noqa: F401  # known to whoever runs such a worker

    cause = cause_in(text)
    assert cause is not None
    assert describe(cause).startswith(line)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (exceptions.LocalRayletDiedError(), "a machine of the cluster, or Ray on it, was lost ("),
        (
            exceptions.NodeDiedError("gone"),
            "a machine of the cluster, or Ray on it, was lost (gone)",
        ),
        (exceptions.WorkerCrashedError(), "a worker was killed, "),
        (
            exceptions.RayActorError("1", DIED),
            "a worker was killed, for its memory or by hand (SYSTEM_ERROR)",
        ),
        (
            exceptions.RayActorError("1", "The actor died because its node has died. x"),
            "a machine of the cluster, ",
        ),
        (
            exceptions.OutOfMemoryError("The node ran low on memory.\nMore."),
            "out of memory (",
        ),
        (exceptions.OutOfDiskError("x"), "the disk under "),
    ],
)
def test_what_ray_loses_is_said_with_the_way_to_go_on(error: Exception, line: str) -> None:
    said = describe(cause_of(error))
    assert said.startswith(line)
    assert "; " in said
    assert "\n" not in said


def test_training_fails_with_what_the_first_worker_met_not_with_the_lost_connections_of_others() -> (
    None
):
    class GroupError(Exception):
        worker_failures = {  # noqa: RUF012
            1: ValueError("/base: is damaged"),
            0: RuntimeError("Connection closed by peer"),
        }

    assert describe(cause_of(GroupError())) == "/base: is damaged"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}", "127.0.0.1:99999"]
)
def test_an_address_where_nobody_listens_is_refused_at_once(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match="nobody answers there"):
        check_address(address.format(port=port))


def test_a_folder_that_is_too_long_or_not_ours_is_refused_with_the_way_out(tmp_path: Path) -> None:
    check_temporary_folder("/tmp")
    with pytest.raises(ValueError, match="set RAY_TMPDIR"):
        check_temporary_folder("/tmp/" + "x" * 60)


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

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.files.locks import BusyError, locked
from components.files.outputs import new_folder

ROOT = Path(__file__).parents[3]


def test_a_lock_is_held_once_and_free_again_at_the_end(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / "lock"
    with (
        locked(lock, "somebody is at work"),
        pytest.raises(BusyError, match="somebody is at work"),
        locked(lock, "somebody is at work"),
    ):
        pass
    with pytest.raises(RuntimeError, match="mine"), locked(lock, "somebody is at work"):
        raise RuntimeError("mine")
    with locked(lock, "somebody is at work"):
        pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("thesis.txt")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock", "busy"):
        pass
    assert not (tmp_path / "thesis.txt").exists()


def _write(output: Path) -> None:
    with new_folder("job", output) as aside:
        (aside / "a").write_text("1")


HOLD = """
import sys
from pathlib import Path
from components.files.outputs import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("ending", ["end", "kill"])
def test_one_process_at_a_time_writes_an_output(tmp_path: Path, ending: str) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(output)]
    holder = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(".")
    for name in ("out", "other/../out", "link/out"):
        with pytest.raises(BusyError, match="another run is writing it"):
            _write(tmp_path / name)
    if ending == "kill":
        holder.send_signal(signal.SIGKILL)
    holder.communicate("\n" if ending == "end" else None)
    _write(output)
    assert not list(tmp_path.glob(".*"))


RACE = """
import sys, time
from pathlib import Path
from components.files.locks import BusyError
from components.files.outputs import only_writer
for _ in range(300):
    try:
        with only_writer(Path(sys.argv[1])):
            mark = Path(sys.argv[1] + ".mark")
            mark.touch(exist_ok=False)
            mark.unlink()
    except BusyError:
        pass
"""


def test_many_processes_never_hold_the_lock_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "out")]
    runs = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert not list(tmp_path.iterdir())

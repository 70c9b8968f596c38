"""What importing `flows` settles for a process: when Python looks for cycles."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# `looks`: for how many halves of a look objects are made
CYCLE = """
import flows
class Cycle:
    def __init__(self): self.own = self
    def __del__(self): print(*told)
told = ["collected"]
Cycle()
others = [[] for _ in range(flows.OBJECTS_BETWEEN_LOOKS * {looks} // 2)]
told.append("at the end")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )


@pytest.mark.parametrize(("looks", "told"), [(1, ""), (4, "collected")], ids=["short", "long"])
def test_cycles_are_collected_in_a_run_and_not_at_its_end(looks: int, told: str) -> None:
    assert run(CYCLE.format(looks=looks)).stdout.strip() == told


def test_a_process_with_duckdb_ends_without_a_word() -> None:
    """Its binding prints what it takes for leaks."""
    assert run("import flows, duckdb; duckdb.sql('select 1').fetchall()").stderr == ""

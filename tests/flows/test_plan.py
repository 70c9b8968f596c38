import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.plan import in_bytes
from fwd2bot.commands import app

ROOT = Path(__file__).parents[2]
OPTIONS = ["--images", "1e9", "--gpus", "64", "--tflops", "400", "--price", "3.5"]


def run(*options: str) -> Result:
    return CliRunner().invoke(app, ["plan", *options])


def test_plan_prints_hours_days_cost_bytes_and_files() -> None:
    done = run(*OPTIONS)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert (
        lines[0]
        == "1,000,000,000 pictures, 16 tokens each; 64 GPUs at 400 TFLOP/s and 3.50 an hour"
    )
    words = next(line for line in lines if line.startswith("compress")).split()
    assert words[-4:] == ["8.19", "5,685.3", "3.70", "19,899"]
    assert any(line.split() == ["float16", "131", "TB"] for line in lines)
    assert any("976,563 files" in line for line in lines)


def test_plan_as_json_holds_the_same(tmp_path: Path) -> None:
    plan = json.loads(run(*OPTIONS, "--json").stdout)
    assert plan["num_files"] == 976_563
    assert plan["compression"]["days"] == pytest.approx(3.70, abs=0.005)


def test_plan_reads_the_shape_of_a_folder() -> None:
    plan = json.loads(
        run(
            *OPTIONS,
            "--model",
            str(ROOT / "models/tiny-llava"),
            "--num-summary-tokens",
            "4",
            "--json",
        ).stdout
    )
    assert plan["stored_bytes"]["float16"] == 1024 * 10**9


def test_plan_of_an_unknown_model_says_what_there_is() -> None:
    done = run(*OPTIONS, "--model", "llava-2")
    assert done.exit_code == 1
    assert (
        "--model llava-2: is neither one of llava-1.5-7b, llava-1.5-13b nor a folder with a "
        "config.json" in done.stderr
    )


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (131072e9, "131 TB"), (1.5e21, "1.5e+03 EB")]
)
def test_in_bytes(size: float, said: str) -> None:
    assert in_bytes(size) == said

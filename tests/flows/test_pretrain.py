"""The stage on a micro world: which run it goes on with, and what it leaves alone."""

import os
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from components import schema
from components.files.unfinished import open_work
from components.params import load_params
from components.pictures import encode_png
from flows.pretrain import STATE, PretrainParams, pretrain, pretraining_name
from tests.components.training.world import write_curated

ROOT = Path(__file__).parents[2]
PARAMS = load_params("pretrain", PretrainParams, ROOT / "flows/pretrain.yaml")
SECONDS_TO_SAY = 60
MICRO: dict[str, Any] = {
    "num_tokenizer_scenes": 50,
    "num_steps": 20,
    "batch_size": 2,
    "validation_pictures": 2,
    "validate_every": 2,
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A working folder: params and curated data."""
    yaml = YAML()
    params = yaml.load((ROOT / "flows/pretrain.yaml").read_text(encoding="utf-8"))["pretrain"]
    params |= MICRO
    params["tower"] |= {"num_steps": 2, "num_warmup_steps": 1, "batch_size": 4}
    with (tmp_path / "pretrain.yaml").open("w") as file:
        yaml.dump({"pretrain": params}, file)
    write_curated(tmp_path / "curated", num_samples=2, num_validation=3)
    enlarge(
        tmp_path / "curated/images/validation/part-00000.parquet", params["model"]["image_size"]
    )
    return tmp_path


def enlarge(table: Path, side: int) -> None:
    """Pictures as large as those of the demo world."""
    rows = pq.read_table(table).to_pylist()
    for row in rows:
        row[schema.IMAGE] = encode_png(Image.open(BytesIO(row[schema.IMAGE])).resize((side, side)))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.IMAGES), table)


def start(world: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.pretrain", "curated", "model", "pretrain.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=world,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_name_goes_by_contents_and_params(world: Path) -> None:
    def name(**changes: Any) -> str:
        params = PretrainParams.model_validate(PARAMS.model_dump() | changes)
        return pretraining_name(params, world / "curated", world)

    first = name()
    for path in world.rglob("*.parquet"):
        path.touch()
    (world / "curated/samples/train/part-00000.parquet").write_bytes(
        b"pretraining reads no samples"
    )
    assert name() == first
    assert name(seed=PARAMS.seed + 1) != first
    (world / "curated/questions/validation.parquet").write_bytes(b"others")
    assert name() != first


@pytest.mark.slow
def test_a_killed_run_goes_on_and_leaves_that_of_others_alone(
    world: Path,
    local_ray: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = open_work(world / STATE, "fedcba9876543210")
    process = start(world)
    # Ray has noted those before it
    while not list((world / STATE).glob("*/step-0000000[6-8]/state.pt")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    members = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in members:
        member.kill()
    process.communicate()

    monkeypatch.chdir(world)
    params = load_params("pretrain", PretrainParams, Path("pretrain.yaml"))
    pretrain(params, Path("curated"), Path("model"))
    said = "".join(capsys.readouterr())
    until = time.monotonic() + SECONDS_TO_SAY
    while "pretrain: goes on at step" not in said:  # by the worker
        assert time.monotonic() < until, said[-3000:]
        time.sleep(0.05)
        said += "".join(capsys.readouterr())
    assert f"{other}: nothing finished" in said
    assert (world / "model/model.safetensors").exists()
    assert [path.parent for path in (world / STATE).glob("*/UNFINISHED.txt")] == [other]

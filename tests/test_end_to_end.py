"""The whole pipeline, every stage for real, on a world of a few pictures: what `make repro` does, in a copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
WORLD = {"num_instruct_pictures": 60, "num_text_only": 6, "num_caption_pairs": 60, "pairs_per_tar": 30}
MICRO = {
    "scenes": WORLD | {"num_validation_pictures": 12, "num_test_pictures": 12},
    # in a world of sixty pictures a handful of planted faults is a large share
    "curate": {"max_reject_fraction": 0.6, "max_answer_fraction": 0.9, "rows_per_task": 64, "validation_fraction": 0.1},
    "pretrain": {"num_steps": 4, "num_warmup_steps": 1, "num_decay_steps": 1, "batch_size": 4, "validate_every": 2},
    "train": {"autoregressive_batch_size": 4, "contrastive_batch_size": 4},
    "evaluate": {"captioned_pictures": 4},
}


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with micro params, in which `pretrain` is not frozen."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("flows", "components"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    params, stages = yaml.load(ROOT / "params.yaml"), yaml.load(ROOT / "dvc.yaml")
    for section, values in MICRO.items():
        params[section] |= values
    params["pretrain"]["tower"] |= {"num_steps": 2, "num_warmup_steps": 1, "batch_size": 4}
    params["train"]["loop"] |= {"num_steps": 6, "validate_every_steps": 3, "checkpoint_every_steps": 3}
    params["train"]["validation"] |= {"num_pictures": 8, "num_questions": 8}
    del stages["stages"]["pretrain"]["frozen"]
    yaml.dump(params, folder / "params.yaml")
    yaml.dump(stages, folder / "dvc.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "--quiet", "-m", "start")  # DVCLive asks for the last commit
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_runs_and_the_second_time_none(project: Path) -> None:
    first = run(project, "dvc", "repro")
    assert first.count("Running stage") == 7, first[-3000:]
    report = json.loads((project / "data/curated/report.json").read_text())
    assert all(row["rows_in"] == row["rows_kept"] + sum(row["rejects"].values()) for row in report.values())
    metrics = json.loads((project / "results/metrics.json").read_text())
    for system in ("compressed", "uncompressed", "average_pooled", "blind"):
        assert metrics[system]["short_answer"]["count"] > 0
    assert metrics["compressed"]["retrieval"]["image_to_text"]["count"] == 12
    assert "<html" in (project / "results/report.html").read_text()
    assert "Running stage" not in run(project, "dvc", "repro")

    store = pq.read_table(sorted((project / "data/compressed/test").glob("part-*.parquet")))
    image_id = store["image_id"][0].as_py()
    hits = json.loads(run(project, sys.executable, "-m", "flows.search", "a red circle", "--k", "3", "--json"))
    assert len(hits) == 3
    assert {hit["image_id"] for hit in hits} <= set(store["image_id"].to_pylist())
    run(project, sys.executable, "-m", "flows.answer", "--image-id", image_id, "how many objects are there?")

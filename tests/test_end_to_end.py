"""The whole pipeline on a world of a few pictures: what `make repro` does, in a copy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from components.presets import lay_over, preset_sections
from tests.downloads import write_downloads

ROOT = Path(__file__).parent.parent
WORLD = {
    "num_instruct_pictures": 60,
    "num_text_only": 6,
    "num_caption_pairs": 60,
    "pairs_per_tar": 30,
}
PRETRAINED = {
    "num_steps": 4,
    "batch_size": 4,
    "validate_every": 2,
    "tower": {"num_steps": 2, "num_warmup_steps": 1, "batch_size": 4},
}
MICRO = {
    "scenes": WORLD | {"num_validation_pictures": 12, "num_test_pictures": 12},
    "curate": {
        # in a world of sixty pictures a handful of planted faults is a large share
        "max_reject_fraction": 0.6,
        "max_answer_fraction": 0.9,
        "rows_per_task": 64,
        "validation_fraction": 0.1,
        "num_workers": 1,  # here and below: a process takes longer to start than to do its share
    },
    "train": {"autoregressive_batch_size": 4, "contrastive_batch_size": 4},
    "compress": {"num_workers": 1},
    "evaluate": {"captioned_pictures": 4, "num_workers": 1},
}


def run(folder: Path, *command: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def copy_code(folder: Path) -> None:
    for name in ("fwd2bot", "flows", "components"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    # of sweeps; in git, and what the report depends on
    for name in ("methods.json", "seeds.json"):
        shutil.copy(ROOT / "results" / name, folder / "results")


def start_repository(folder: Path) -> None:
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    # or a stage that compiles a module makes those before it run again
    shutil.copy(ROOT / ".dvcignore", folder)
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "--quiet", "-m", "start")  # DVCLive asks for the last commit


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with micro params, in which `pretrain` is not frozen."""
    folder = tmp_path_factory.mktemp("project")
    copy_code(folder)
    yaml = YAML()
    params, stages = yaml.load(ROOT / "params.yaml"), yaml.load(ROOT / "dvc.yaml")
    for section, values in MICRO.items():
        params[section] |= values
    base = yaml.load(ROOT / "flows/pretrain.yaml")
    lay_over(base["pretrain"], PRETRAINED)
    yaml.dump(base, folder / "flows/pretrain.yaml")
    params["train"]["loop"] |= {
        "num_steps": 6,
        "validate_every_steps": 3,
        "checkpoint_every_steps": 3,
    }
    params["train"]["validation"] |= {"num_pictures": 8, "num_questions": 8}
    del stages["stages"]["pretrain"]["frozen"]
    yaml.dump(params, folder / "params.yaml")
    yaml.dump(stages, folder / "dvc.yaml")
    start_repository(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_runs_and_the_second_time_none(project: Path) -> None:
    first = run(project, "dvc", "repro")
    assert first.count("Running stage") == 9, first[-3000:]
    report = json.loads((project / "data/curated/report.json").read_text())
    assert all(
        row["rows_in"] == row["rows_kept"] + sum(row["rejects"].values()) for row in report.values()
    )
    metrics = json.loads((project / "results/metrics.json").read_text())
    for system in ("compressed", "uncompressed", "average_pooled", "downsampled", "blind"):
        assert metrics[system]["short_answer"]["count"] > 0
    assert metrics["compressed"]["retrieval"]["image_to_text"]["count"] == 12
    assert metrics["compressed"]["partial_queries"]["two_object"]["count"] > 12
    headline = json.loads((project / "results/headline.json").read_text())
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json"))
    assert shown[""]["data"] == {"results/headline.json": {"data": headline}}
    assert "<html" in (project / "results/report.html").read_text()
    assert "Running stage" not in run(project, "dvc", "repro")

    store = pq.read_table(sorted((project / "data/compressed/test").glob("part-*.parquet")))
    image_id = store["image_id"][0].as_py()
    hits = json.loads(
        run(project, sys.executable, "-m", "flows.search", "a red circle", "--k", "3", "--json")
    )
    assert len(hits) == 3
    assert {hit["image_id"] for hit in hits} <= set(store["image_id"].to_pylist())
    run(
        project,
        sys.executable,
        "-m",
        "flows.answer",
        "--image-id",
        image_id,
        "how many objects are there?",
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_older_run_comes_back_from_a_remote(project: Path, tmp_path: Path) -> None:
    """The commands of docs/data.md, in a clone with nothing but git and the remote."""
    if not (project / "results/metrics.json").exists():
        run(project, "dvc", "repro")
    run(project, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    commit(project, "first run")
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["evaluate"]["captions_per_picture"] = 1
    yaml.dump(params, project / "params.yaml")
    first = (project / "results/metrics.json").read_bytes()
    assert run(project, "dvc", "repro").count("Running stage") == 3  # evaluate, codecs and report
    second = (project / "results/metrics.json").read_bytes()
    assert second != first
    commit(project, "second run")

    run(tmp_path, "git", "clone", "--quiet", str(project), "clone")
    clone = tmp_path / "clone"
    assert not (clone / "data/curated").exists()
    for revision, metrics in (("HEAD", second), ("HEAD~1", first)):
        run(clone, "git", "checkout", "--quiet", revision)
        run(clone, "dvc", "pull")
        assert (clone / "results/metrics.json").read_bytes() == metrics
        assert "up to date" in run(clone, "dvc", "status")
        assert "Running stage" not in run(clone, "dvc", "repro")
        shutil.rmtree(clone / "data/evaluation")
        run(clone, "dvc", "checkout")
        assert (clone / "data/evaluation/answers.jsonl").exists()


def commit(folder: Path, message: str) -> None:
    """What a run made: files into git, outputs into the remote."""
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "--quiet", "-m", message)
    run(folder, "dvc", "push")


ONE_CORE = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}  # in place of 8 GPUs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_preset_runs_on_downloads_as_they_are_published(tmp_path: Path) -> None:
    """The preset for LLaVA-1.5-7B with a small model of its class; only sizes are cut."""
    copy_code(tmp_path)
    yaml = YAML()
    params = preset_sections("llava-1.5-7b", ROOT)
    write_downloads(tmp_path / params["raw_data"])
    shutil.copytree(ROOT / "models/tiny-llava", tmp_path / params["base_model"])
    params["curate"] |= {"num_workers": 1, "max_reject_fraction": 0.2, "max_answer_fraction": 0.5}
    params["train"] |= ONE_CORE | {
        "threads_per_worker": 1,
        "autoregressive_batch_size": 4,
        "contrastive_batch_size": 4,
    }
    params["train"] |= {"num_summary_tokens": 4}  # the small model makes 36 of a picture
    params["train"]["loop"] |= {
        "num_steps": 2,
        "validate_every_steps": 2,
        "checkpoint_every_steps": 2,
    }
    params["train"]["texts"] |= {"max_conversation_tokens": 256}
    params["compress"] |= ONE_CORE
    params["evaluate"] |= ONE_CORE
    yaml.dump(params, tmp_path / "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    start_repository(tmp_path)
    output = run(tmp_path, "dvc", "repro", "report")
    assert output.count("Running stage") == 7, output[-3000:]  # neither the demo world nor its base
    metrics = json.loads((tmp_path / "results/metrics.json").read_text())
    assert metrics["uncompressed"]["short_answer"]["count"] == 6
    assert "partial_queries" not in metrics["compressed"]
    assert metrics["compressed"]["retrieval"]["image_to_text"]["count"] == 6
    assert (
        pq.read_metadata(next((tmp_path / "data/compressed/test").glob("part-*.parquet"))).num_rows
        == 6
    )

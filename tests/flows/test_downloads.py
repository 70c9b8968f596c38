"""Downloads as they are on disk or in a bucket, through the preset that is made for them."""

import filecmp
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from pyarrow import fs
from ruamel.yaml import YAML

from components.presets import load_preset, preset_sections
from flows.curate import CurateParams, curate
from fwd2bot.commands import app
from tests.components.files.bucket import bucket, upload  # noqa: F401
from tests.downloads import write_downloads
from tests.flows.in_this_process import in_this_process  # noqa: F401
from tests.flows.training_forks import training_forks  # noqa: F401
from tests.repository import ROOT, copy_tracked, run

PRESET = "llava-1.5-7b"
SMALL = {
    "num_workers": 2,
    "rows_per_task": 20,
    "max_reject_fraction": 0.2,
    "max_answer_fraction": 0.5,
}
CODE = ("fwd2bot", "flows", "components")
SWEEPS = ("results/methods.json", "results/seeds.json")  # in git; the report reads them
BEHIND = ("train", "compress", "evaluate", "codecs", "inspect", "report")  # `curate`
ONE_CORE = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0}  # in place of 8 GPUs


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("project") / "downloads"
    return root, write_downloads(root)


@pytest.fixture(scope="module")
def curated(downloads: tuple[Path, dict[str, str]], local_ray: None) -> Path:
    output = downloads[0].parent / "data/curated"
    curate(
        load_preset("curate", CurateParams, PRESET, ROOT).model_copy(update=SMALL),
        downloads[0],
        output,
    )
    return output


def test_every_row_of_a_download_ends_as_it_must(
    downloads: tuple[Path, dict[str, str]], curated: Path
) -> None:
    kept = set(
        ds.dataset(curated / "samples").to_table(columns=["sample_id"])["sample_id"].to_pylist()
    )
    rejects = {
        row["sample_id"]: row["reason"]
        for row in pq.read_table(curated / "rejects.parquet").to_pylist()
    }
    found = dict.fromkeys(kept, "kept") | rejects
    assert found == downloads[1]
    report = json.loads((curated / "report.json").read_text())
    assert report["llava_665k"]["repaired"] == {"id_made_unique": 1, "other_extension": 1}
    assert report["cc3m"]["rows_in"] == 13


def test_a_row_of_a_download_is_read_as_it_was_published(curated: Path) -> None:
    rows = {row["sample_id"]: row for row in ds.dataset(curated / "samples").to_table().to_pylist()}
    row = rows["llava_665k/2354786"]
    assert [turn["content"] for turn in row["conversation"]] == [
        "<image>\nProvide a one-sentence caption for the provided image.",
        "white and red",
        "Is it big?",
        "no",
    ]
    assert row["caption"] == "white and red"
    assert rows["llava_665k/000000033471"]["conversation"][0]["content"].endswith("\n<image>")
    assert rows["llava_665k/wgByO4Y_0"]["image"] is None
    assert rows["cc3m/000000003"]["caption"] == "a photograph of a street with buses 000000003"


def test_sources_in_a_bucket_give_the_same_bytes(
    downloads: tuple[Path, dict[str, str]],
    curated: Path,
    tmp_path: Path,
    bucket: fs.S3FileSystem,
) -> None:
    """In a Ray of its own, whose workers find the bucket by their environment."""
    root, _ = downloads
    place = upload(root, bucket, "open-data")
    params = preset_sections(PRESET, ROOT)
    params["curate"] |= SMALL
    for source in params["curate"]["sources"].values():
        source["files"] = f"{place}/{source['files']}"
        if "pictures" in source:
            source["pictures"] = place
    YAML().dump(params, tmp_path / "params.yaml")
    shutil.copytree(root / "evaluation", tmp_path / "downloads/evaluation")
    command = [sys.executable, "-m", "flows.curate", "downloads", "curated"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    files = sorted(path.relative_to(curated) for path in curated.rglob("*") if path.is_file())
    same, different, errors = filecmp.cmpfiles(curated, tmp_path / "curated", files, shallow=False)
    assert (different, errors) == ([], [])
    assert len(same) > 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_preset_runs_on_downloads_as_they_are_published(
    downloads: tuple[Path, dict[str, str]],
    curated: Path,
    monkeypatch: pytest.MonkeyPatch,
    training_forks: None,
    in_this_process: None,
) -> None:
    """The preset for LLaVA-1.5-7B with a small model of its class; only sizes are cut.

    By the commands of `dvc.yaml`, in this process.
    """
    folder = downloads[0].parent
    copy_tracked(folder, *CODE, *SWEEPS, ".dvc", "dvc.yaml", "models/tiny-llava")
    base = write_params(folder)["base_model"]
    (folder / "models/tiny-llava").rename(folder / base)
    run(folder, "git", "init", "--quiet")
    # DVCLive asks for the last commit
    run(folder, "git", "commit", "--quiet", "--allow-empty", "-m", "start")

    # neither the demo world nor its base; the fixture has curated with these values
    monkeypatch.chdir(folder)
    commands = planned_stages("report")
    assert commands.keys() == {"curate", *BEHIND}
    assert commands.pop("curate") == "python -m flows.curate downloads data/curated"
    for command in commands.values():
        _, _, flow, *arguments = shlex.split(command)
        app([flow.removeprefix("flows."), *arguments], standalone_mode=False)

    metrics = json.loads((folder / "results/metrics.json").read_text())
    assert metrics["uncompressed"]["short_answer"]["count"] == 6
    assert "partial_queries" not in metrics["compressed"]
    assert metrics["compressed"]["retrieval"]["image_to_text"]["count"] == 6
    shards = folder.glob("data/compressed/test/part-*.parquet")
    assert pq.read_metadata(next(shards)).num_rows == 6
    assert "<html" in (folder / "results/report.html").read_text()


def write_params(folder: Path) -> dict[str, Any]:
    """Write params.yaml of the preset, with smaller sizes; returns it."""
    params = preset_sections(PRESET, ROOT)
    params["curate"] |= SMALL
    params["train"] |= ONE_CORE | {
        "threads_per_worker": 1,
        "autoregressive_batch_size": 4,
        "contrastive_batch_size": 4,
        "num_summary_tokens": 4,  # the small model makes 36 of a picture
    }
    params["train"]["loop"] |= {
        "num_steps": 2,
        "validate_every_steps": 2,
        "checkpoint_every_steps": 2,
    }
    params["train"]["texts"] |= {"max_conversation_tokens": 256}
    params["compress"] |= ONE_CORE
    params["evaluate"] |= ONE_CORE
    YAML().dump(params, folder / "params.yaml")
    return params


def planned_stages(target: str) -> dict[str, str]:
    """{stage: command} of what DVC runs here for a stage when nothing is there, in its order."""
    with Repo() as repo:
        stages = plan_repro(repo.index.graph, repo.stage.collect(target))
        return {stage.name: stage.cmd for stage in stages}

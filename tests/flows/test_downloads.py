"""Downloads as they are on disk or in a bucket, through the preset that is made for them."""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from ruamel.yaml import YAML

from components.presets import load_preset, preset_sections
from flows.curate import CurateParams, curate
from tests.components.files.bucket import bucket, upload  # noqa: F401
from tests.downloads import write_downloads

ROOT = Path(__file__).parents[2]
PRESET = "llava-1.5-7b"
SMALL = {
    "num_workers": 2,
    "rows_per_task": 20,
    "max_reject_fraction": 0.2,
    "max_answer_fraction": 0.5,
}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("downloads")
    return root, write_downloads(root)


@pytest.fixture(scope="module")
def curated(
    downloads: tuple[Path, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
    local_ray: None,
) -> Path:
    output = tmp_path_factory.mktemp("curated") / "curated"
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

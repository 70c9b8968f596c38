"""The check before a run: silent about what is right, and everything that is wrong at once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from components.presets import preset_sections
from flows.check import check
from fwd2bot.commands import app
from tests.downloads import write_downloads

ROOT = Path(__file__).parents[2]
ON_THIS_MACHINE = {"num_workers": 1, "gpus_per_worker": 0}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads and a small base model where the preset says."""
    folder = tmp_path_factory.mktemp("project")
    write_downloads(folder / "downloads")
    shutil.copytree(ROOT / "models/tiny-llava", folder / "models/llava-1.5-7b-hf")
    return folder


@pytest.fixture
def params(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The preset, as far as it does not need eight GPUs."""
    monkeypatch.chdir(project)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    values = preset_sections("llava-1.5-7b", ROOT)
    values["curate"]["max_reject_fraction"] = 0.2
    values["train"] |= ON_THIS_MACHINE | {"num_summary_tokens": 4}
    values["compress"] |= ON_THIS_MACHINE
    values["evaluate"] |= ON_THIS_MACHINE
    return values


def problems(values: dict[str, Any]) -> list[str]:
    YAML().dump(values, Path("params.yaml"))
    return check(Path("params.yaml"), num_rows=64)


def test_downloads_and_a_model_that_fit_have_no_problems(
    params: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert problems(params) == []
    said = capsys.readouterr().out
    assert "llava_665k (llava): 1 files" in said
    assert "about 51 rows" in said
    assert "of the first 51 rows 48 are kept" in said
    assert "image_missing (llava_665k/0000000000: ocr_vqa/images/0000000000.jpg)" in said
    assert "cc3m (webdataset): 2 files" in said
    assert "picture: 120 × 90 pixels, 36 image tokens" in said
    assert "<image>×4" in said
    assert "▸ white and red</s>◂" in said
    assert "forward and backward over 4 conversations and 4 pairs" in said
    assert sorted(path.name for path in Path().iterdir()) == ["downloads", "models", "params.yaml"]


def test_a_base_that_cannot_read_small_pictures_is_found_before_it_is_trained(
    params: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    params["train"]["num_summary_tokens"] = 40
    (found,) = problems(params)
    assert "evaluate.references: downsampled:" in found
    assert "it reads 36 tokens of a picture, and 40 would be more; leave it out" in found
    params["evaluate"]["references"] = ["blind"]
    assert problems(params) == []
    assert "evaluate.references: blind" in capsys.readouterr().out


def test_every_problem_is_listed_at_once(params: dict[str, Any]) -> None:
    params["train"]["num_sumary_tokens"] = params["train"].pop("num_summary_tokens")
    params["compress"] |= {"gpus_per_worker": 1, "num_workers": 8}
    params["bootstrap"]["confidence"] = 2.0
    params["curate"]["max_reject_fraction"] = 0.01
    params["curate"]["sources"]["coco"] = {
        "format": "coco",
        "files": "captions.json",
        "pictures": ".",
    }
    params["base_model"] = "models/none"
    shutil.move("downloads/evaluation/test/captions.json", "captions.json")
    found = "\n".join(problems(params))
    shutil.move("captions.json", "downloads/evaluation/test/captions.json")
    for expected in (
        "train.num_summary_tokens: the key is missing",
        "train.num_sumary_tokens: unknown key; did you mean 'num_summary_tokens'?",
        ": bootstrap.confidence: 2.0 is not < 1",
        "curate.sources.llava_665k: 3 of the first 51 rows are rejected (truncated",
        "downloads/captions.json: no such file",
        "evaluation/test/captions.json: no such file",
        "base_model: there is no folder models/none",
    ):
        assert expected in found
    assert len(found.splitlines()) == 8  # and the two shards of CC3M


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (
            "missing",
            "1 missing, and would be random (model.language_model.layers.1.mlp.up_proj.weight)",
        ),
        ("pointer", "model.safetensors: is a pointer of git-lfs"),
        ("config", "config.json: is no whole JSON"),
    ],
)
def test_a_base_model_that_is_not_whole_is_a_problem(
    params: dict[str, Any], fault: str, outcome: str
) -> None:
    folder = Path(shutil.copytree("models/llava-1.5-7b-hf", f"models/{fault}"))
    params["base_model"] = str(folder)
    weights = folder / "model.safetensors"
    if fault == "missing":
        tensors = load_file(weights)
        del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))]
        save_file(tensors, weights)
    elif fault == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13\n")
    else:
        (folder / "config.json").write_text("{")
    found = problems(params)
    shutil.rmtree(folder)
    assert len(found) == 1
    assert outcome in found[0]


def test_more_gpus_than_there_are_and_too_little_memory(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params["compress"] |= {"gpus_per_worker": 1, "num_workers": 8}
    monkeypatch.setattr("flows.check.SPARE_MEMORY", 1e9)
    monkeypatch.setattr("flows.check.COPIES_ON_DISK", 1e9)
    found = problems(params)
    assert [problem.split(":")[0] for problem in found] == ["disk", "compress", "base_model"]
    assert "8 workers with a GPU each, this machine has 0; lower compress.num_workers" in found[1]
    monkeypatch.setenv("RAY_ADDRESS", "ray://cluster:10001")
    assert "compress" not in "".join(problems(params))


def test_an_unknown_source_format_and_a_key_of_another_one_are_named(
    params: dict[str, Any],
) -> None:
    params["curate"]["sources"]["a"] = {"format": "tables", "files": "*.csv"}
    params["curate"]["sources"]["cc3m"]["pictures"] = "."
    params["curate"]["sources"]["Bad Name"] = {"format": "webdataset", "files": "*.tar"}
    found = "\n".join(problems(params))
    assert "curate.sources.a" in found
    assert "'table'" in found
    assert "curate.sources.cc3m.pictures: unknown key" in found
    assert "Bad Name" in found


def test_the_command_ends_with_a_status(params: dict[str, Any], project: Path) -> None:
    params["base_model"] = "models/none"
    YAML().dump(params, project / "broken.yaml")
    words = ["check", "--params", str(project / "broken.yaml"), "--rows", "4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert done.stderr.count("problem: ") == 1
    assert str(done.exception) == "check: 1 problems"

"""Job `preset`: values change, comments stay."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.params import ParamsError
from components.presets import preset_sections
from flows.check import Report, look_at_presets
from flows.preset import _laid_over, apply_preset

ROOT = Path(__file__).parents[2]
SETTINGS = Path("components/baselines")  # of the project below


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the parameter files of this project."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    for settings in (ROOT / "components/baselines").glob("*.yaml"):
        (tmp_path / "components/baselines").mkdir(parents=True, exist_ok=True)
        shutil.copy(settings, tmp_path / "components/baselines")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_changes_values_and_keeps_comments(project: Path) -> None:
    before = Path("params.yaml").read_text()
    wanted = preset_sections("llava-1.5-7b", ROOT)
    changes = apply_preset("llava-1.5-7b", Path("params.yaml"), SETTINGS)

    after = Path("params.yaml").read_text()
    assert YAML(typ="safe").load(after) == wanted
    assert len(changes) > 50
    commented = [line.split("#")[1] for line in before.splitlines() if "#" in line]
    kept = [comment for comment in commented if comment in after]
    assert len(kept) > 0.95 * len(commented)


FILES = [ROOT / "params.yaml", *sorted((ROOT / "components/baselines").glob("*.yaml"))]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_lines_that_a_preset_does_not_set_stay_to_the_byte(tmp_path: Path, file: Path) -> None:
    (tmp_path / "presets").mkdir()
    assert _laid_over(file, {}, "")[1] == file.read_text()


def test_lists_and_nulls_are_written_as_before(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("a: [1, 2]  # of one\nb: null  # of two\nc:\n  - x\n")
    text = _laid_over(file, {"a": [3], "c": ["y", "z"]}, "")[1]
    assert text == "a: [3]     # of one\nb: null  # of two\nc:\n  - y\n  - z\n"


BEFORE = {
    "lines": "a:\n  - x\n  - y\nb: 1\n",
    "lines, comments": "a:  # of one\n  - x\n  - y  # of y\nb: 1\n",
    "lines of lists": "a:  # of one\n  - [x, y]\n  - [z]\nb: 1\n",
    "a comment first": "a:\n  # of x, with which it goes\n  - x\nb: 1\n",
    "at the end": "b: 1\na:  # of one\n  - x\n",
    "in brackets": "a: [x, y]  # of one\nb: 1\n",
    "mapping": "a:  # of one\n  p: 1  # of p\n  q: 2\nb: 1\n",
    "number": "a: 3  # of one\nb: 1\n",
}
AFTER = [[], ["n"], [[1, 2], [3]], {}, {"z": 1}, None, 7]


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("after", AFTER, ids=str)
def test_any_value_takes_the_place_of_any_other(before: str, after: Any, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(before)
    text = _laid_over(file, {"a": after}, "")[1]
    assert YAML(typ="safe").load(text) == {"a": after, "b": 1}
    assert ("# of one" in text) == ("# of one" in before)


def test_a_link_stays_a_link_and_permissions_stay(project: Path) -> None:
    Path("params.yaml").rename("real.yaml")
    Path("params.yaml").symlink_to("real.yaml")
    Path("real.yaml").chmod(0o600)
    apply_preset("llava-1.5-7b", Path("params.yaml"), Path("components/baselines"))
    assert Path("params.yaml").is_symlink()
    assert Path("real.yaml").stat().st_mode & 0o777 == 0o600
    assert "llava-1.5-7b-hf" in Path("real.yaml").read_text()


def test_a_preset_again_changes_nothing(project: Path) -> None:
    apply_preset("llava-1.5-7b", Path("params.yaml"), SETTINGS)
    text = Path("params.yaml").read_text()
    assert not apply_preset("llava-1.5-7b", Path("params.yaml"), SETTINGS)
    assert Path("params.yaml").read_text() == text


def test_nothing_is_written_where_the_parameter_file_does_not_fit(project: Path) -> None:
    Path("params.yaml").write_text("raw_data: mine\n")
    with pytest.raises(ParamsError, match="a key that the parameter file lacks"):
        apply_preset("llava-1.5-7b", Path("params.yaml"), SETTINGS)
    assert Path("params.yaml").read_text() == "raw_data: mine\n"


def test_check_says_what_a_preset_set_and_what_was_changed_since(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look_at_presets(Report(), Path("params.yaml"))
    assert "preset" not in capsys.readouterr().out

    apply_preset("llava-1.5-13b", Path("params.yaml"), SETTINGS)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("samples_per_chunk: 4", "samples_per_chunk: 2"))
    look_at_presets(Report(), Path("params.yaml"))
    said = capsys.readouterr().out
    assert "preset llava-1.5-13b sets " in said
    assert "train.loop.num_steps" in said
    assert "train.samples_per_chunk is 2, in the preset 4" in said

"""DVC's everyday commands in fresh clones: none ends with an error or misses an output.

The outputs of the stages are stand-ins of a few bytes, since DVC looks at names and hashes only;
the files of the repository itself are the real ones.
"""

import shutil
from pathlib import Path

import pytest

from tests.repository import commit, copy_tracked, run
from tests.test_pipeline import STAGES, plotted_columns, written_paths

SMALL_WORLD = {
    "num_instruct_pictures": 4,
    "num_text_only": 1,
    "num_caption_pairs": 4,
    "pairs_per_tar": 4,
}
SMALL_WORLD |= {"num_validation_pictures": 2, "num_test_pictures": 2}
FROZEN = "stage: 'pretrain' is frozen"  # as it is meant to be
NOISE = ("WARNING", "ERROR", "failed to", "missing-files", "sweeps/bare")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def quietly(folder: Path, *command: str) -> str:
    """What a command prints, which has no word of trouble."""
    text = run(folder, *command)
    lines = [line for line in text.splitlines() if FROZEN not in line]
    assert not [line for line in lines if any(word in line for word in NOISE)], text[-4000:]
    return text


def clone(origin: Path, folder: Path) -> Path:
    run(origin, "git", "clone", "--quiet", str(origin), str(folder))
    return folder


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository like this one with the lock of a finished run and a remote with its outputs."""
    folder = tmp_path_factory.mktemp("dvc") / "origin"
    copy_tracked(folder)
    write_stand_ins(folder)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    run(folder, "dvc", "commit", "--force", "--quiet")
    run(
        folder,
        "dvc",
        "remote",
        "add",
        "--quiet",
        "--default",
        "storage",
        str(folder.parent / "remote"),
    )
    commit(folder, "first run")
    run(folder, "dvc", "push", "--quiet")
    return folder


def write_stand_ins(folder: Path) -> None:
    """A file for every output, and for each part of one that a stage or a plot reads."""
    columns: dict[str, list[str]] = {}
    for name, column in plotted_columns():
        columns.setdefault(name, ["step"]).extend(column if isinstance(column, list) else [column])
    kinds = ("outs", "metrics", "deps")
    places = [path for stage in STAGES for path in written_paths(stage, *kinds)]
    for path in [*map(Path, columns), *sorted(places, key=lambda path: -len(path.parts))]:
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            separator = "\t" if path.suffix == ".tsv" else ","
            rows = [columns.get(str(path), ["step"]), ["1"] * len(columns.get(str(path), ["step"]))]
            text = "\n".join(map(separator.join, rows)) + "\n"
            is_metric = path.suffix == ".json"
            (folder / path).write_text('{"short_answers": 0.5}\n' if is_metric else text)


def test_a_fresh_clone_gets_all_of_a_run_and_has_nothing_to_do(
    origin: Path, tmp_path: Path
) -> None:
    folder = clone(origin, tmp_path / "clone")
    quietly(folder, "dvc", "pull")
    assert "up to date" in quietly(folder, "dvc", "status")
    assert "Running stage" not in quietly(folder, "dvc", "repro")
    assert run(folder, "git", "status", "--porcelain") == ""
    shutil.rmtree(folder / "data")
    quietly(folder, "dvc", "checkout")
    assert (folder / "data/compressed/test").exists()
    assert "up to date" in quietly(folder, "dvc", "push")
    for command in (
        "dag",
        "metrics show",
        "metrics diff HEAD",
        "params diff HEAD",
        "plots show",
        "plots diff HEAD",
    ):
        quietly(folder, "dvc", *command.split())
    run(folder, "dvc", "gc", "--workspace", "--dry")  # warns of what it does
    for command in ("data status", "list .", "exp show"):
        quietly(folder, "dvc", *command.split())
    assert run(folder, "git", "status", "--porcelain") == ""

    quietly(folder, "dvc", "exp", "run", "--name", "same")
    quietly(folder, "dvc", "exp", "diff", "HEAD", "same")
    quietly(folder, "dvc", "exp", "apply", "same")
    assert "same" in quietly(folder, "dvc", "exp", "list", "--name-only")
    assert run(folder, "git", "status", "--porcelain") == ""


def test_a_change_in_a_baseline_leaves_every_stage_as_it_is(origin: Path, tmp_path: Path) -> None:
    folder = clone(origin, tmp_path / "clone")
    quietly(folder, "dvc", "pull")
    for path in (folder / "components/baselines").iterdir():
        path.write_text(path.read_text() + "# changed\n")
    assert "up to date" in quietly(folder, "dvc", "status")

    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("methods/fwd2bot", "baselines/prumerge"))
    status = quietly(folder, "dvc", "status", "train")
    assert "components/baselines/prumerge.py" in status
    assert "components/baselines/prumerge.yaml" in status


def test_one_stage_runs_as_an_experiment_where_the_outputs_of_others_are_not(
    origin: Path, tmp_path: Path
) -> None:
    folder = clone(origin, tmp_path / "clone")
    run(folder, "dvc", "remote", "remove", "storage")
    run(folder, "git", "commit", "--quiet", "--all", "-m", "no remote")
    changes = [
        part for key, value in SMALL_WORLD.items() for part in ("-S", f"scenes.{key}={value}")
    ]
    text = run(folder, "dvc", "exp", "run", "--name", "small", *changes, "scenes")
    assert "Ran experiment(s): small" in text
    assert "small" in quietly(folder, "dvc", "exp", "list", "--name-only")

import os
import shutil
from pathlib import Path

import pytest

from components.curation.fingerprint import fingerprint
from components.curation.training_sources import LlavaSource, WebdatasetSource
from components.params import load_params
from flows.curate import CurateParams

PARAMS = load_params("curate", CurateParams, Path(__file__).parents[3] / "params.yaml").candidates
SOURCES = {
    "instruct": LlavaSource(format="llava", files="instruct/*.json", pictures="pictures"),
    "captions": WebdatasetSource(format="webdataset", files="captions/*.tar"),
}
FILES = ("instruct/a.json", "pictures/1.jpg", "captions/0.tar", "evaluation/test/pictures/1.jpg")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in (*FILES, "evaluation/validation/pictures/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_fingerprint_is_the_same_for_the_same_files_and_params(raw: Path) -> None:
    assert fingerprint(raw, SOURCES, PARAMS, 10) == fingerprint(raw, SOURCES, PARAMS, 10)


@pytest.mark.parametrize("name", FILES)
def test_fingerprint_changes_with_size_time_and_presence_of_every_file(
    raw: Path, name: str
) -> None:
    found = {fingerprint(raw, SOURCES, PARAMS, 10)}
    os.utime(raw / name, (1, 1))
    found.add(fingerprint(raw, SOURCES, PARAMS, 10))
    (raw / name).write_bytes(b"xy")
    os.utime(raw / name, (1, 1))
    found.add(fingerprint(raw, SOURCES, PARAMS, 10))
    (raw / name).with_stem("another").write_bytes(b"")
    found.add(fingerprint(raw, SOURCES, PARAMS, 10))
    assert len(found) == 4


def test_fingerprint_is_that_of_a_folder_that_was_moved(raw: Path, tmp_path: Path) -> None:
    first = fingerprint(raw, SOURCES, PARAMS, 10)
    shutil.copytree(raw, tmp_path / "moved")
    assert fingerprint(tmp_path / "moved", SOURCES, PARAMS, 10) == first


def test_fingerprint_changes_with_every_param_of_the_checks(raw: Path) -> None:
    other = SOURCES | {"captions": WebdatasetSource(format="webdataset", files="captions/0*.tar")}
    limits = PARAMS.model_copy(update={"max_file_bytes": 7})
    found = {
        fingerprint(raw, SOURCES, PARAMS, 10),
        fingerprint(raw, SOURCES, PARAMS, 11),
        fingerprint(raw, other, PARAMS, 10),
        fingerprint(raw, SOURCES, limits, 10),
        fingerprint(raw, {"captions": SOURCES["captions"]}, PARAMS, 10),
    }
    assert len(found) == 5

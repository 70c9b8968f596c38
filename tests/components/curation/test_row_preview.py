from pathlib import Path

import pytest

from components.curation.candidates import CandidateParams
from components.curation.row_preview import Preview, count_rows, preview_source
from components.curation.training_sources import pieces_of_file
from components.files.storage import matching_files
from components.presets import load_preset
from flows.curate import CurateParams
from tests.components.curation.test_training_sources import SOURCES, source, write_all
from tests.downloads import write_downloads

ROOT = Path(__file__).parents[3]
PRESET = load_preset("curate", CurateParams, "llava-1.5-7b", ROOT)
PARAMS: CandidateParams = PRESET.candidates


@pytest.mark.parametrize(("name", "expected"), [(name, 3) for name in SOURCES if name != "cc3m"])
def test_rows_of_a_file_are_counted_in_every_format(
    name: str, expected: int, tmp_path: Path
) -> None:
    raw = write_all(tmp_path)
    expected = {"coco": 4, "karpathy": 3}.get(name, expected)  # as written in test_captions.py
    pieces = pieces_of_file(source(name), matching_files(f"{raw}/{SOURCES[name]['files']}")[0])
    assert sum(count_rows(source(name), piece) for piece in pieces) == expected


@pytest.mark.parametrize(
    ("name", "num_files", "num_rows", "rejects"),
    [
        ("llava_665k", 1, 51, {"truncated": 1, "image_missing": 1, "placeholder_mismatch": 1}),
        ("cc3m", 2, 11, {}),
    ],
)
def test_the_first_rows_stand_for_all(
    name: str, num_files: int, num_rows: int, rejects: dict[str, int], tmp_path: Path
) -> None:
    write_downloads(tmp_path)
    whole = preview_source(name, PRESET.sources[name], tmp_path, PARAMS, 100)
    assert (whole.num_files, whole.rejects) == (num_files, rejects)
    assert whole.estimated_rows == pytest.approx(num_rows, abs=1)  # the second shard is cut
    few = preview_source(name, PRESET.sources[name], tmp_path, PARAMS, 4)
    assert [row["sample_id"] for row in few.rows] == [row["sample_id"] for row in whole.rows][:4]
    assert few.curated_bytes == pytest.approx(whole.curated_bytes, rel=0.3)


def test_one_example_of_each_reason_is_told() -> None:
    rows = [
        {"sample_id": str(number), "reason": reason, "detail": f"row {number}", "image": None}
        for number, reason in enumerate(["truncated", None, "image_missing", "image_missing"])
    ]
    assert Preview(1, 1, 1, rows).details == ["image_missing (2: row 2)", "truncated (0: row 0)"]

import json
from pathlib import Path

import pytest

from components.search.index_manifest import BEGUN, files_of, note_begun


def test_a_note_that_a_kill_has_cut_does_not_hide_the_next(tmp_path: Path) -> None:
    (tmp_path / BEGUN).write_text('"vectors-1.npy"\n"vec')
    note_begun(tmp_path, "pictures-2.parquet")
    assert {"vectors-1.npy", "pictures-2.parquet"} <= files_of(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\0b"])
def test_a_note_names_nothing_outside_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / BEGUN).write_text(json.dumps(name) + "\n")
    assert name not in files_of(tmp_path)

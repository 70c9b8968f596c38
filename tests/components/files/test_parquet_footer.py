from pathlib import Path
from typing import Any

import pytest

from components.files.parquet import TABLE_ERRORS, open_parquet
from components.files.parquet_footer import read_footer, read_page_sizes
from components.files.unpacking import DamagedFileError
from tests.components.files.test_parquet import WRITERS, rows_of, table, write


@pytest.mark.parametrize("options", WRITERS, ids=str)
def test_pages_of_every_kind_are_added_up(tmp_path: Path, options: dict[str, Any]) -> None:
    """What the headers of the pages say agrees with the footer, which counts the headers too."""
    place = write(tmp_path / "a.parquet", table(1000), **options)
    with open_parquet(str(place)) as opened, place.open("rb") as file:
        chunk = opened.metadata.row_group(0).column(2)
        found = read_footer(file)[1][0].chunks[2]
        pages = read_page_sizes(file, found)
    assert (found.packed, found.unpacked) == (
        chunk.total_compressed_size,
        chunk.total_uncompressed_size,
    )
    assert 0.7 * chunk.total_uncompressed_size < pages.total < chunk.total_uncompressed_size
    assert (pages.dictionary > 0) == chunk.has_dictionary_page
    values = [entry.value["image"] for entry in rows_of(place)]
    assert values == [row["bytes"] for row in table(1000)["image"].to_pylist()]


@pytest.mark.parametrize("options", WRITERS, ids=str)
def test_files_behind_one_another_are_named(tmp_path: Path, options: dict[str, Any]) -> None:
    first = write(tmp_path / "a.parquet", table(30), **options).read_bytes()
    second = write(tmp_path / "b.parquet", table(200), **options).read_bytes()
    for content in (first + second, second + first, first + first):
        (tmp_path / "both.parquet").write_bytes(content)
        with (
            pytest.raises(DamagedFileError, match="bytes are a file of their own"),
            open_parquet(str(tmp_path / "both.parquet")),
        ):
            pass


def test_a_footer_that_promises_other_rows_than_its_row_groups_is_refused(tmp_path: Path) -> None:
    """The number of all rows is the third field of the footer: 0x16, then 2 × 20."""
    place = write(tmp_path / "a.parquet", table(20))
    data = place.read_bytes()
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    position = data.index(b"\x16\x28", at)
    place.write_bytes(data[: position + 1] + b"\x2a" + data[position + 2 :])
    with pytest.raises(TABLE_ERRORS, match="promises 21 rows"), open_parquet(str(place)):
        pass

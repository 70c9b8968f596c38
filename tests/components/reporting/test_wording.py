"""Numbers as people read them, against numbers written by hand."""

import pytest

from components.reporting.wording import (
    data_size,
    in_percent,
    interval,
    number,
    operations,
    percent,
    plain,
    score,
    short,
    thousands,
)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (percent(0.8125), "81.2%"),
        (percent(1.0), "100.0%"),
        (in_percent(0.8125), "81.2"),
        (score(0.98765), "0.988"),
        (interval(0.79, 0.834), "79.0–83.4"),
        (number(0.00123456), "0.00123"),
        (number(64.0), "64"),
        (number(12345.0), "12.35k"),
        (thousands(128000), "128k"),
        (thousands(1_200_000), "1.2M"),
        (thousands(20), "20"),
        (data_size(0), "0 bytes"),
        (data_size(999), "999 bytes"),
        (data_size(1024), "1 KiB"),
        (data_size(1010 * 1024), "1010 KiB"),
        (data_size(9 * 1024), "9 KiB"),
        (data_size(1024_000_000), "977 MiB"),
        (data_size(5 * 1024**4), "5120 GiB"),
        (operations(28_400_000), "28.4 million"),
        (operations(6.1e12), "6.1 trillion"),
        (operations(0), "0"),
        (plain("replace_object"), "replace object"),
    ],
)
def test_number_is_written_for_people(shown: str, wanted: str) -> None:
    assert shown == wanted


def test_short_keeps_what_fits_and_marks_what_is_cut() -> None:
    assert short("abcde", 5) == "abcde"
    assert short("abcdef", 5) == "abcd…"
    assert len(short("word " * 1000)) <= 400

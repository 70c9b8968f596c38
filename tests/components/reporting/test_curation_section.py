"""What curation did, summed up."""

from components.reporting import curation_section as curation

SOURCES = {
    "captions": {
        "rows_in": 10,
        "rows_kept": 7,
        "rejects": {"truncated": 2, "bad_json": 1},
        "repaired": {"alpha": 1},
    },
    "instruct": {
        "rows_in": 5,
        "rows_kept": 4,
        "rejects": {"truncated": 1},
        "repaired": {"alpha": 2, "cmyk": 1},
    },
}
REJECTS = [
    {
        "sample_id": "c/1",
        "source": "captions",
        "reason": "truncated",
        "detail": "9 bytes are missing",
    },
    {"sample_id": "c/2", "source": "captions", "reason": "truncated", "detail": "all is missing"},
    {"sample_id": "c/3", "source": "captions", "reason": "bad_json", "detail": "line 1"},
    {"sample_id": "i/1", "source": "instruct", "reason": "truncated", "detail": "cut"},
]


def rule(success: bool, **config: object) -> dict[str, object]:
    return {"success": success, "expectation_config": config, "result": {"element_count": 12}}


def test_every_source_has_its_counts() -> None:
    assert curation.source_rows(SOURCES) == [
        curation.SourceRow("captions", 10, 7, 3, 1),
        curation.SourceRow("instruct", 5, 4, 1, 3),
    ]


def test_reasons_are_summed_over_sources_with_the_first_example() -> None:
    assert curation.reject_rows(SOURCES, REJECTS) == [
        curation.ReasonRow(
            "truncated", 3, {"captions": 2, "instruct": 1}, "c/1", "9 bytes are missing"
        ),
        curation.ReasonRow("bad json", 1, {"captions": 1}, "c/3", "line 1"),
    ]


def test_repairs_are_summed_over_sources() -> None:
    rows = curation.repair_rows(SOURCES)
    assert [(row.name, row.total, row.sources) for row in rows] == [
        ("alpha", 3, {"instruct": 2, "captions": 1}),
        ("cmyk", 1, {"instruct": 1}),
    ]


def test_rules_are_told_in_words() -> None:
    described = rule(
        True,
        type="expect_x",
        kwargs={"column": "image_sha256"},
        description="no picture is in two splits",
    )
    between = rule(
        False,
        type="expect_column_values_to_be_between",
        kwargs={"column": "width", "min_value": 16, "max_value": 96, "batch_id": "b"},
    )
    kwargs = {"column_A": "a", "column_B": "b_c"}
    pair = rule(
        True,
        type="expect_column_pair_values_to_be_equal",
        kwargs=kwargs,
        notes="All 12 rows were checked.",
    )
    (check,) = curation.table_checks({"image_files": {"results": [described, between, pair]}})
    assert check == curation.TableCheck(
        "image files",
        12,
        [
            ("image sha256: no picture is in two splits", True),
            ("width: be between (max value 96, min value 16)", False),
            ("a and b c: pair values to be equal", True),
        ],
        ["All 12 rows were checked."],
    )

"""What curation kept, put right and rejected, and what Great Expectations made of the result."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from components import schema
from components.reporting.wording import plain

# arguments of an expectation that are no part of the rule
UNSAID = ("batch_id", "column", "column_A", "column_B")


class SourceRow(NamedTuple):
    """What became of the rows of one source."""

    name: str
    rows_in: int
    rows_kept: int
    num_rejected: int
    num_repairs: int  # of kept rows; a row may need several


class ReasonRow(NamedTuple):
    """A reason for rejection, or a kind of repair."""

    name: str
    total: int
    sources: dict[str, int]  # most frequent first
    sample_id: str  # of the first rejected row; "" for a repair
    detail: str  # about it


class TableCheck(NamedTuple):
    """The expectations of one curated table."""

    table: str
    num_rows: int  # rows of the table, or things that stand for them
    rules: list[tuple[str, bool]]  # what is expected, whether it is so
    notes: list[str]  # what the rules cover, where that is not plain


def source_rows(sources: Mapping[str, Any]) -> list[SourceRow]:
    """In the order of the report."""
    return [
        SourceRow(
            name,
            row["rows_in"],
            row["rows_kept"],
            sum(row["rejects"].values()),
            sum(row["repaired"].values()),
        )
        for name, row in sources.items()
    ]


def reject_rows(
    sources: Mapping[str, Any], rejects: Iterable[Mapping[str, str]]
) -> list[ReasonRow]:
    """Reasons, most frequent first, each with its first rejected row."""
    first: dict[str, Mapping[str, str]] = {}
    for row in rejects:
        first.setdefault(row[schema.REASON], row)
    return [
        row._replace(
            name=plain(row.name),
            sample_id=first[row.name][schema.SAMPLE_ID],
            detail=first[row.name][schema.DETAIL],
        )
        for row in _count(sources, "rejects")
    ]


def repair_rows(sources: Mapping[str, Any]) -> list[ReasonRow]:
    """Repairs, most frequent first."""
    return [row._replace(name=plain(row.name)) for row in _count(sources, "repaired")]


def table_checks(expectations: Mapping[str, Any]) -> list[TableCheck]:
    """The rules of every table, in words."""
    return [
        TableCheck(
            plain(table),
            max(
                (int(outcome["result"].get("element_count", 0)) for outcome in result["results"]),
                default=0,
            ),
            [
                (describe_rule(outcome["expectation_config"]), bool(outcome["success"]))
                for outcome in result["results"]
            ],
            [
                outcome["expectation_config"]["notes"]
                for outcome in result["results"]
                if _has_notes(outcome)
            ],
        )
        for table, result in expectations.items()
    ]


def describe_rule(config: Mapping[str, Any]) -> str:
    """The rule's own description, or its name with its arguments; after the columns it is about."""
    kwargs = config["kwargs"]
    columns = " and ".join(plain(str(kwargs[key])) for key in UNSAID[1:] if key in kwargs)
    if config.get("description"):
        return f"{columns}: {config['description']}"
    rule = plain(
        config["type"].removeprefix("expect_column_values_to_").removeprefix("expect_column_")
    )
    given = ", ".join(
        f"{plain(key)} {value}" for key, value in sorted(kwargs.items()) if key not in UNSAID
    )
    return f"{columns}: {rule}" + (f" ({given})" if given else "")


def _has_notes(outcome: Mapping[str, Any]) -> bool:
    return bool(outcome["expectation_config"].get("notes"))


def _count(sources: Mapping[str, Any], column: str) -> list[ReasonRow]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for source, row in sources.items():
        for name, count in row[column].items():
            counts[name][source] += count
    rows = [
        ReasonRow(name, found.total(), dict(found.most_common()), "", "")
        for name, found in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row.total, row.name))

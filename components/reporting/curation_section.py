"""Curation: rows kept, repaired and rejected, and the rules that hold of its tables."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from components import schema
from components.reporting.wording import plain

COLUMNS = ("column", "column_A", "column_B")  # arguments that name the columns of a rule


class SourceRow(NamedTuple):
    """Counts of the rows of one source."""

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
    """Return the counts of every source, in the order of the report."""
    rows = []
    for name, row in sources.items():
        num_rejected, num_repairs = sum(row["rejects"].values()), sum(row["repaired"].values())
        rows.append(SourceRow(name, row["rows_in"], row["rows_kept"], num_rejected, num_repairs))
    return rows


def reject_rows(
    sources: Mapping[str, Any], rejects: Iterable[Mapping[str, str]]
) -> list[ReasonRow]:
    """Return reasons, most frequent first, each with its first rejected row."""
    # one row is enough to show what a reason means
    first: dict[str, Mapping[str, str]] = {}
    for reject in rejects:
        first.setdefault(reject[schema.REASON], reject)

    rows = []
    for reason, row in _count(sources, "rejects").items():
        sample_id, detail = first[reason][schema.SAMPLE_ID], first[reason][schema.DETAIL]
        rows.append(row._replace(sample_id=sample_id, detail=detail))
    return rows


def repair_rows(sources: Mapping[str, Any]) -> list[ReasonRow]:
    """Return repairs, most frequent first."""
    return list(_count(sources, "repaired").values())


def table_checks(expectations: Mapping[str, Any]) -> list[TableCheck]:
    """Return the rules of every table, in words."""
    checks = []
    for table, result in expectations.items():
        num_rows, rules, notes = 0, [], []
        for outcome in result["results"]:
            # a rule about pairs or groups counts fewer things than there are rows
            num_rows = max(num_rows, int(outcome["result"].get("element_count", 0)))

            config = outcome["expectation_config"]
            rules.append((describe_rule(config), bool(outcome["success"])))
            if config.get("notes"):
                notes.append(config["notes"])

        checks.append(TableCheck(plain(table), num_rows, rules, notes))
    return checks


def describe_rule(config: Mapping[str, Any]) -> str:
    """Return the columns of a rule and its description, or its name with its arguments."""
    kwargs = config["kwargs"]
    names = [plain(str(kwargs[key])) for key in COLUMNS if key in kwargs]
    columns = " and ".join(names)
    if config.get("description"):
        return f"{columns}: {config['description']}"

    # the rest of the name is English
    name = config["type"].removeprefix("expect_column_values_to_").removeprefix("expect_column_")
    arguments = []
    for key, value in sorted(kwargs.items()):
        if key not in (*COLUMNS, "batch_id"):
            arguments.append(f"{plain(key)} {value}")

    return f"{columns}: {plain(name)}" + (f" ({', '.join(arguments)})" if arguments else "")


def _count(sources: Mapping[str, Any], column: str) -> dict[str, ReasonRow]:
    """Return counts by the names in a column of the report, most frequent first."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for source, row in sources.items():
        for name, count in row[column].items():
            counts[name][source] += count

    # equal counts in order of their names
    by_frequency = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    rows = {}
    for name, found in by_frequency:
        rows[name] = ReasonRow(plain(name), found.total(), dict(found.most_common()), "", "")
    return rows

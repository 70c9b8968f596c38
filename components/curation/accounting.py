"""Accounts of every input row: rows in = rows kept + rows rejected, for every source.

Counts are made from the rows themselves, so a task that ran twice cannot count twice.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from components import schema
from components.curation.database import stream_rows
from components.curation.reasons import Repair
from components.curation.written_tables import write_rows

ENDS = """
SELECT source, rejected.reason, count(*) FROM rows LEFT JOIN rejected USING (place) GROUP BY ALL
"""
REPAIRED = f"""
SELECT source, repair, count(*)
FROM (SELECT source, unnest(repairs) AS repair FROM kept) GROUP BY ALL
UNION ALL
SELECT source, '{Repair.ID_MADE_UNIQUE}', count(*) FROM samples WHERE is_renamed GROUP BY source
"""
REJECTS = """
SELECT sample_id, source, rejected.reason, rejected.detail
FROM rows JOIN rejected USING (place) ORDER BY place
"""


class Outcome(NamedTuple):
    """The end of one input row; `reason` is None when it was kept."""

    sample_id: str
    source: str
    reason: str | None
    detail: str
    repairs: tuple[str, ...]


class Counts(NamedTuple):
    """Numbers of rows by source, and by reject reason or repair."""

    ends: Counter[tuple[str, str | None]]  # rows of (source, reason; None: kept)
    repairs: Counter[tuple[str, str]]  # kept rows of (source, repair)


def count_decided(database: DuckDBPyConnection) -> Counts:
    """Count the rows of the tables of decisions.py."""
    counts = Counts(Counter(), Counter())
    for source, reason, number in stream_rows(database, ENDS):
        counts.ends[source, reason] = number
    for source, repair, number in stream_rows(database, REPAIRED):
        counts.repairs[source, repair] = number
    return counts


def count_outcomes(outcomes: Iterable[Outcome]) -> Counts:
    """Count the rows of evaluation files."""
    counts = Counts(Counter(), Counter())
    for outcome in outcomes:
        counts.ends[outcome.source, outcome.reason] += 1
        # Repairs count only for rows that are kept.
        if outcome.reason is None:
            for repair in outcome.repairs:
                counts.repairs[outcome.source, repair] += 1
    return counts


def make_report(counts: Iterable[Counts], rows_in: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return, per source, rows_in, rows_kept, rejects by reason, repairs of kept rows by kind.

    `rows_in` was counted when the sources were listed, before anything was checked.
    """
    kept: Counter[str] = Counter()
    rejects: dict[str, Counter[str]] = defaultdict(Counter)
    repaired: dict[str, Counter[str]] = defaultdict(Counter)

    for part in counts:
        for (source, reason), number in part.ends.items():
            if reason is None:
                kept[source] += number
            else:
                rejects[source][reason] += number
        for (source, repair), number in part.repairs.items():
            repaired[source][repair] += number

    # Every row that was listed ended in one way.
    assert set(kept) | set(rejects) <= set(rows_in), "a row has a source that was never listed"
    for source, number in rows_in.items():
        accounted = kept[source] + rejects[source].total()
        assert number == accounted, f"{source}: {number} rows in, but {accounted} kept or rejected"

    report = {}
    for source, number in sorted(rows_in.items()):
        report[source] = {
            "rows_in": number,
            "rows_kept": kept[source],
            "rejects": dict(sorted(rejects[source].items())),
            "repaired": dict(sorted(repaired[source].items())),
        }
    return report


def check_reject_fractions(report: Mapping[str, Mapping[str, Any]], max_fraction: float) -> None:
    """Raise ValueError that names every source which lost more than `max_fraction` of its rows."""
    faults = []
    for source, counts in report.items():
        lost = counts["rows_in"] - counts["rows_kept"]
        if lost > max_fraction * counts["rows_in"]:
            # The commonest reason tells most.
            by_count = sorted(counts["rejects"].items(), key=lambda item: (-item[1], item[0]))
            reasons = ", ".join(f"{reason} {count}" for reason, count in by_count)
            faults.append(f"{source}: {lost} of {counts['rows_in']} rows rejected ({reasons})")

    if faults:
        faults.append(
            f"more than {max_fraction:.1%} of a source is lost: see rejects.parquet in the "
            ".partial folder; mend the source or raise curate.max_reject_fraction"
        )
        raise ValueError("\n".join(faults))


def write_rejects(database: DuckDBPyConnection, outcomes: Iterable[Outcome], path: Path) -> None:
    """Write the rejected rows: training rows and pictures in input order, then `outcomes`."""
    at_hand = (outcome[:4] for outcome in outcomes if outcome.reason is not None)
    rows = chain(stream_rows(database, REJECTS), at_hand)
    named = (dict(zip(schema.REJECTS.names, row, strict=True)) for row in rows)
    write_rows(named, schema.REJECTS, path)


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write `report.json`, the same bytes for the same counts."""
    path.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")

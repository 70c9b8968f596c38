"""What became of every input row: rows in = rows kept + rows rejected, for every source.

Counts are made from the rows themselves, so a task that ran twice cannot count twice.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from components import schema


class Outcome(NamedTuple):
    """The end of one input row; `reason` is None when it was kept."""

    sample_id: str
    source: str
    reason: str | None
    detail: str
    repairs: tuple[str, ...]


def count_outcomes(outcomes: Iterable[Outcome], rows_in: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Per source: rows_in, rows_kept, rejects by reason, repairs of kept rows by kind.

    `rows_in` was counted when the sources were listed, before anything was checked.
    """
    kept: Counter[str] = Counter()
    rejects: dict[str, Counter[str]] = defaultdict(Counter)
    repaired: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        if outcome.reason is None:
            kept[outcome.source] += 1
            repaired[outcome.source].update(outcome.repairs)
        else:
            rejects[outcome.source][outcome.reason] += 1
    assert set(kept) | set(rejects) <= set(rows_in), "a row has a source that was never listed"
    for source, count in rows_in.items():
        accounted = kept[source] + rejects[source].total()
        assert count == accounted, f"{source}: {count} rows in, but {accounted} kept or rejected"
    return {
        source: {
            "rows_in": count,
            "rows_kept": kept[source],
            "rejects": dict(sorted(rejects[source].items())),
            "repaired": dict(sorted(repaired[source].items())),
        }
        for source, count in sorted(rows_in.items())
    }


def check_reject_fractions(report: Mapping[str, Mapping[str, Any]], max_fraction: float) -> None:
    """Raises ValueError that names every source which lost more than `max_fraction` of its rows, and to what."""
    faults = []
    for source, counts in report.items():
        lost = counts["rows_in"] - counts["rows_kept"]
        if lost > max_fraction * counts["rows_in"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in _most_common(counts["rejects"]))
            faults.append(f"{source}: {lost} of {counts['rows_in']} rows rejected ({reasons})")
    if faults:
        way_out = "see rejects.parquet in the .partial folder; mend the source or raise curate.max_reject_fraction"
        raise ValueError("\n".join([*faults, f"more than {max_fraction:.1%} of a source is lost: {way_out}"]))


def reject_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """The rejected rows, in input order."""
    rows = [
        {schema.SAMPLE_ID: o.sample_id, schema.SOURCE: o.source, schema.REASON: o.reason, schema.DETAIL: o.detail}
        for o in outcomes
        if o.reason is not None
    ]
    return pa.Table.from_pylist(rows, schema=schema.REJECTS)


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """`report.json`, the same bytes for the same counts."""
    path.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _most_common(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

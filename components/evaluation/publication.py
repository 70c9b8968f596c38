"""Results as files: answers as JSON lines, plot data as CSV, scores and timings as JSON."""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.evaluation.asking import TIME, Record
from components.evaluation.scorecard import kind_rows, recall_rows, token_rows

ROWS = ("answers", "captions", "compositionality")


def write_folder(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the results into a folder: lists of rows under the names of ROWS, and "metrics"."""
    (folder / "plots").mkdir(parents=True)
    for name in ROWS:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in results[name]]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    # Drawn by DVC from these files, see `plots` in dvc.yaml.
    plots, metrics = folder / "plots", results["metrics"]
    write_csv(plots / "accuracy_by_kind.csv", kind_rows(metrics))
    write_csv(plots / "accuracy_against_tokens.csv", token_rows(metrics))
    write_csv(plots / "recall.csv", recall_rows(metrics))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys with a header line; an empty file for no rows."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys, so that equal content is equal bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def timing_table(records: Sequence[Record], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the seconds of the parts of the run, and each system's seconds and records per second.

    A system's seconds are its workers', added up.
    """
    table: dict[str, Any] = {name: round(value, 3) for name, value in seconds.items()}

    # Several workers serve one system, and each of their portions has its own TIME record.
    busy_seconds: dict[str, float] = defaultdict(float)
    num_records: dict[str, float] = defaultdict(float)
    for record in records:
        if record.record == TIME:
            busy_seconds[record.system] += record.first or 0
            num_records[record.system] += record.second or 0

    for system, busy in busy_seconds.items():
        table[system] = {
            "worker_seconds": round(busy, 3),
            "records": int(num_records[system]),
            "records_per_second": round(num_records[system] / busy, 1),
        }
    return table

"""Reading what the stages wrote; what a run did not make (the curve of a base from elsewhere) is empty."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from components.reporting.methods_section import MethodRun, read_runs

Row = Mapping[str, Any]
Points = list[tuple[float, float]]  # (x, y) in order of x
Curves = dict[str, Points]


class Inputs(NamedTuple):
    """Everything that the page is about, but pictures and stored tokens."""

    metrics: Row  # results/metrics.json
    codecs: list[Row]  # of results/codecs.json
    methods: list[MethodRun]  # of results/methods.json; none where no sweep has run
    answers: list[Row]  # one per system and question
    captions: list[Row]  # one per system and described picture
    sources: Row  # of curation: source -> counts
    rejects: list[Row]
    expectations: Row  # table -> result of Great Expectations
    compressor: Row  # its config.json
    training: Curves  # metric -> (step, value)
    base: Curves  # kind of question -> (pictures seen, accuracy)


def read_inputs(
    curated: Path,
    evaluation: Path,
    metrics: Path,
    codecs: Path,
    methods: Path,
    compressor: Path,
    base: Path,
    training: Path,
) -> Inputs:
    """Raises FileNotFoundError that names the file, ValueError for one that is no JSON."""
    return Inputs(
        metrics=read_json(metrics),
        codecs=read_json(codecs)["codecs"],
        methods=read_runs(methods),
        answers=read_lines(evaluation / "answers.jsonl"),
        captions=read_lines(evaluation / "captions.jsonl"),
        sources=read_json(curated / "report.json"),
        rejects=pq.read_table(curated / "rejects.parquet").to_pylist(),
        expectations=read_json(curated / "expectations" / "result.json"),
        compressor=read_json(compressor / "config.json"),
        training=read_training(training),
        base=read_learning_curve(base / "pretraining.tsv"),
    )


def read_json(path: Path) -> Row:
    """Raises ValueError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: is not JSON: {error}; run the stage that writes it again"
        ) from None


def read_lines(path: Path) -> list[Row]:
    """One JSON object per line; only a line feed ends a line, whatever a text contains."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_training(folder: Path) -> Curves:
    """DVCLive's files `plots/metrics/GROUP/NAME.tsv` as "GROUP/NAME"; a value that is not finite is left out."""
    root = folder / "plots" / "metrics"
    curves = {}
    for path in sorted(root.rglob("*.tsv")):
        points = [(float(row["step"]), float(row[path.stem])) for row in read_table(path)]
        name = path.relative_to(root).with_suffix("").as_posix()
        curves[name] = [(step, value) for step, value in points if math.isfinite(value)]
    return curves


def read_learning_curve(path: Path) -> Curves:
    """A column `pictures`, then one per kind of question; nothing when the base model came without."""
    rows = read_table(path) if path.is_file() else []
    kinds = [name for name in rows[0] if name != "pictures"] if rows else []
    return {kind: [(float(row["pictures"]), float(row[kind])) for row in rows] for kind in kinds}


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table with a header."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))

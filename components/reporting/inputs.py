"""Files of the stages, read; a part that a run did not make is empty."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from components.reporting.methods_section import MethodRun, read_runs
from components.reporting.seeds_section import Seeds, read_seeds

Row = Mapping[str, Any]
Points = Sequence[tuple[float, float]]  # (x, y) in order of x
Curves = Mapping[str, Points]


class Places(NamedTuple):
    """Files and folders that the page is made from."""

    curated: Path
    pictures: Path  # of the store
    store: Path
    evaluation: Path
    metrics: Path
    codecs: Path
    inspection: Path
    methods: Path  # may be missing
    seeds: Path  # may be missing
    compressor: Path
    base: Path
    training: Path


class Inputs(NamedTuple):
    """Everything that the page is about, but pictures, stored tokens and the inspection."""

    metrics: Row  # results/metrics.json
    codecs: list[Row]  # of results/codecs.json
    methods: list[MethodRun]  # of results/methods.json; none where no sweep has run
    seeds: Seeds  # of results/seeds.json; none where no sweep has run
    answers: list[Row]  # one per system and question
    captions: list[Row]  # one per system and described picture
    sources: Row  # of curation: source -> counts
    rejects: list[Row]
    expectations: Row  # table -> result of Great Expectations
    compressor: Row  # its config.json
    training: Curves  # metric -> (step, value)
    base: Curves  # kind of question -> (pictures seen, accuracy)


def read_inputs(places: Places) -> Inputs:
    """Read all files. Raises FileNotFoundError or ValueError (no JSON) that names the file."""
    return Inputs(
        metrics=read_json(places.metrics),
        codecs=read_json(places.codecs)["codecs"],
        methods=read_runs(places.methods),
        seeds=read_seeds(places.seeds),
        answers=read_lines(places.evaluation / "answers.jsonl"),
        captions=read_lines(places.evaluation / "captions.jsonl"),
        sources=read_json(places.curated / "report.json"),
        rejects=pq.read_table(places.curated / "rejects.parquet").to_pylist(),
        expectations=read_json(places.curated / "expectations" / "result.json"),
        compressor=read_json(places.compressor / "config.json"),
        training=read_training(places.training),
        base=read_learning_curve(places.base / "pretraining.tsv"),
    )


def read_json(path: Path) -> Row:
    """Read JSON. Raises ValueError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: is not JSON: {error}; run the stage that writes it again"
        ) from None


def read_lines(path: Path) -> list[Row]:
    """Read one JSON object per line; only a line feed ends a line, whatever a text contains."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return list(map(json.loads, filter(None, lines)))


def read_training(folder: Path) -> Curves:
    """Read DVCLive's files `plots/metrics/GROUP/NAME.tsv` as "GROUP/NAME", finite values only."""
    root = folder / "plots" / "metrics"
    curves = {}
    for path in sorted(root.rglob("*.tsv")):
        # a loss that overflowed cannot be drawn
        points = []
        for row in read_table(path):
            value = float(row[path.stem])
            if math.isfinite(value):
                points.append((float(row["step"]), value))

        curves[path.relative_to(root).with_suffix("").as_posix()] = points
    return curves


def read_learning_curve(path: Path) -> Curves:
    """Read a column `pictures`, then one per kind of question; empty if there is no file."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in read_table(path) if path.is_file() else []:
        num_pictures = float(row.pop("pictures"))
        for kind, accuracy in row.items():
            curves.setdefault(kind, []).append((num_pictures, float(accuracy)))
    return curves


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a tab-separated table with a header."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))

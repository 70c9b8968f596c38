"""Methods compared: from metrics of runs to rows of results/methods.json, and to tables."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from components.params import Params
from components.reporting.metric_tables import (
    BENCHMARKS,
    BLIND,
    CAPTION_SCORES,
    COMPRESSED,
    DOWNSAMPLED,
    HARD,
    UNCOMPRESSED,
    VALUES,
    value_of,
)
from components.reporting.published import Published, PublishedTable
from components.reporting.seeds import Spread, spread
from components.reporting.wording import plain

NAMES = {  # of systems that no run trained
    UNCOMPRESSED: "all image tokens",
    DOWNSAMPLED: "downsampled picture, {} tokens",
    BLIND: "no picture",
}
SUBSETS = (
    "replace_object",
    "replace_attribute",
    "replace_relation",
    "swap_object",
    "swap_attribute",
    "add_object",
    "add_attribute",
)
STAGES = ("train", "compress", "evaluate")  # whose seconds are shown
Columns = dict[str, str]  # key of a score -> head of its column
RETRIEVAL: Columns = {
    "retrieval.text_to_image.recall_at_1": "R@1, text to picture",
    "retrieval.text_to_image.recall_at_10": "R@10, text to picture",
    "retrieval.image_to_text.recall_at_1": "R@1, picture to text",
    "retrieval.image_to_text.recall_at_10": "R@10, picture to text",
}
UNDERSTANDING: Columns = {key: label for key, (label, _) in BENCHMARKS.items()}
HARD_SUBSET: Columns = {f"{HARD}.{key}": label for key, label in UNDERSTANDING.items()}
CAPTIONING: Columns = {f"captioning.{key}": label for key, label in CAPTION_SCORES.items()}
COMPOSITIONALITY: Columns = {f"compositionality.{key}": plain(key) for key in SUBSETS}
TABLES: dict[str, tuple[tuple[int, ...], Columns]] = {  # title -> tables of the paper, columns
    "Understanding": ((1,), UNDERSTANDING),
    "Understanding, on the questions that a downsampled picture gets wrong": ((), HARD_SUBSET),
    "Captioning": ((2, 11), CAPTIONING),
    "Retrieval": ((3, 9), RETRIEVAL),
    "Compositionality": ((4, 10), COMPOSITIONALITY),
}


class Interval(Params):
    """A score with its 95 % interval over the pictures of the test split."""

    value: float
    low: float
    high: float


class MethodRun(Params):
    """One method with one number of tokens and one seed."""

    run: str  # its name in the sweep
    seed: int
    method: str
    tuning: str
    # what it makes of a picture before anything is asked is all it needs afterwards
    is_stored: bool
    visual_tokens: int
    bytes_per_picture: int | None  # of what is stored
    flops_per_picture: float  # once
    flops_per_question: float | None  # of a later question; of a method that answers
    scores: dict[str, Interval]  # dotted key in results/metrics.json, without the system
    seconds: dict[str, float]  # stage -> time it took; of stages that ran


class Group(NamedTuple):
    """The runs of one method with one number of tokens, one for each seed, and their scores."""

    name: str
    runs: Sequence[MethodRun]
    scores: Mapping[str, Spread]

    @property
    def first(self) -> MethodRun:
        return self.runs[0]

    @property
    def label(self) -> str:
        """Return the method without its number of tokens."""
        return re.sub(r", \d+ tokens?$", "", self.name)


class MethodTable(NamedTuple):
    """The scores of our runs, and below them the paper's tables of the same kind."""

    title: str
    columns: list[str]
    rows: list[tuple[Group, list[Spread | None]]]
    published: list[PublishedTable]


def method_run(
    run: str, seed: int, metrics: Mapping[str, Any], seconds: Mapping[str, float]
) -> MethodRun:
    """Return the row of a run of the sweep."""
    method = metrics["method"]
    return MethodRun(
        run=run,
        seed=seed,
        method=method["name"],
        tuning=method["tuning"],
        is_stored=method["is_stored"],
        scores=flat_scores(metrics[COMPRESSED]),
        seconds=dict(seconds),
        **_costs(metrics, COMPRESSED),
    )


def reference_runs(seed: int, metrics: Mapping[str, Any]) -> list[MethodRun]:
    """Return rows of the base model by itself: of the systems of NAMES that were asked too."""
    rows = []
    for system, name in NAMES.items():
        # the settings of an evaluation say which of them it asks
        if system not in metrics:
            continue

        # only the few tokens of a small picture are worth keeping
        costs, is_stored = _costs(metrics, system), system == DOWNSAMPLED
        if not is_stored:
            costs["bytes_per_picture"] = None

        row = MethodRun(
            run=name.format(costs["visual_tokens"]),
            seed=seed,
            method=system,
            tuning="none",
            is_stored=is_stored,
            scores=flat_scores(metrics[system]),
            seconds={},
            **costs,
        )
        rows.append(row)
    return rows


def flat_scores(system: Mapping[str, Any]) -> dict[str, Interval]:
    """Return the scores of a system under dotted keys, without scores by kind of question."""
    found: dict[str, Interval] = {}
    for key, entry in system.items():
        if key == "retrieval":
            for column in RETRIEVAL:
                _, way, k = column.split(".")
                found[column] = _recall(entry[way], k)
        elif key in ("captioning", "compositionality"):
            for name, score in entry.items():
                found[f"{key}.{name}"] = _interval(score)
        elif key == HARD:
            for name, score in flat_scores(entry).items():
                found[f"{key}.{name}"] = score
        # what is left has a score of its own, or one below it for each kind of question
        elif not set(VALUES).isdisjoint(entry):
            found[key] = _interval(entry)
    return found


def read_runs(path: Path) -> list[MethodRun]:
    """Read results/methods.json; no rows if nobody has made it. Raises ValueError for others."""
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [MethodRun.model_validate(row) for row in rows]


def group_runs(runs: Iterable[MethodRun]) -> list[Group]:
    """Group runs by name, in the order of the sweep."""
    by_name: dict[str, list[MethodRun]] = {}
    for run in runs:
        by_name.setdefault(run.run, []).append(run)
    return [Group(name, found, _spreads(found)) for name, found in by_name.items()]


def method_tables(groups: Sequence[Group], published: Published) -> list[MethodTable]:
    """Return our scores and, apart from them, the scores that the paper prints."""
    tables = []
    for title, (numbers, columns) in TABLES.items():
        rows = []
        for group in groups:
            # a method that was not asked any of this has no row
            if not columns.keys().isdisjoint(group.scores):
                rows.append((group, [group.scores.get(key) for key in columns]))

        printed = [table for table in published.tables if table.table in numbers]
        # the paper has no hard subset, and older runs have none
        if rows or printed:
            tables.append(MethodTable(title, list(columns.values()), rows, printed))
    return tables


def method_cost_rows(groups: Sequence[Group]) -> list[tuple[Group, list[Spread | None]]]:
    """Return the trained methods with the seconds of STAGES; None for a stage that did not run."""
    rows = []
    for group in groups:
        if group.first.method not in NAMES:
            seconds = [_seconds(group, stage) for stage in STAGES]
            rows.append((group, seconds))
    return rows


def _seconds(group: Group, stage: str) -> Spread | None:
    found = [run.seconds[stage] for run in group.runs if stage in run.seconds]
    return spread(found) if found else None


def _spreads(runs: Sequence[MethodRun]) -> dict[str, Spread]:
    values: dict[str, list[float]] = {}
    for run in runs:
        for key, score in run.scores.items():
            values.setdefault(key, []).append(score.value)
    return {key: spread(found) for key, found in values.items()}


def _costs(metrics: Mapping[str, Any], system: str) -> dict[str, Any]:
    names = ("visual_tokens", "bytes_per_picture", "flops_per_picture", "flops_per_question")
    return {name: metrics["costs"][name][system] for name in names}


def _interval(entry: Mapping[str, float]) -> Interval:
    return Interval(value=value_of(entry), low=entry["low"], high=entry["high"])


def _recall(entry: Mapping[str, float], k: str) -> Interval:
    return Interval(value=entry[k], low=entry[f"{k}_low"], high=entry[f"{k}_high"])

"""Metrics of a system from its scored rows: every score with its count and interval.

Keys of `results/metrics.json`: `short_answer`, `word_reading`, `unanswerable`, `existence`,
`relations` are {"accuracy", "low", "high", "count"} over questions; `multiple_choice` over circular
groups, `relations_pairs` over pairs (MME's acc+), `multiple_choice_single` over single passes;
`existence_f1` is POPE's mean over its kinds. `…_by_kind` splits by kind; `partial_queries`
has a precision for each kind of query; `…_maxsim` is the same by another ranking. A benchmark
without a question is left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from components.evaluation.captioning import caption_estimates
from components.evaluation.intervals import BootstrapParams, Estimate, estimate, mean_estimate
from components.evaluation.recall import precision_at_k, recall_at_k
from components.evaluation.scoring import (
    FREE_TEXT,
    ScoredQuestion,
    confusion_counts,
    f1,
    group_scores,
)

RECALLS = (1, 5, 10)
PRECISIONS = (1, 10)
_DECIMALS = 6

Questions = Sequence[ScoredQuestion]


def question_metrics(questions: Questions, params: BootstrapParams) -> dict[str, Any]:
    """Score all question benchmarks of one system."""
    rows_of = _grouped(questions, attrgetter("benchmark"))
    found: dict[str, Any] = {}
    for name, score in _SCORERS.items():
        if name in rows_of:
            found |= score(name, rows_of[name], params)
    return found


def caption_metrics(
    image_ids: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    params: BootstrapParams,
) -> dict[str, Any]:
    """Score captions by CIDEr, BLEU-4 and ROUGE-L, each as {"score", "low", "high", "count"}."""
    estimates = caption_estimates(image_ids, captions, references, params)
    return {name: as_json(found, "score") for name, found in estimates.items()}


def pair_metrics(
    subsets: Sequence[str], image_ids: Sequence[str], scores: np.ndarray, params: BootstrapParams
) -> dict[str, Any]:
    """Return the accuracy per subset of compositional pairs."""
    found: dict[str, Any] = {}
    for subset in sorted(set(subsets)):
        is_in = np.array(subsets) == subset
        accuracy = mean_estimate(scores[is_in], np.array(image_ids)[is_in], params)
        found[subset] = as_json(accuracy, "accuracy")
    return found


def recall_metrics(
    ranks: np.ndarray, image_ids: Sequence[str], params: BootstrapParams
) -> dict[str, float]:
    """Return the recall at 1, 5 and 10 with intervals over queries; the gallery stays fixed.

    image_ids: the picture of each query.
    """
    found: dict[str, float] = {}
    for k in RECALLS:
        interval = mean_estimate((ranks <= k).astype(np.float64), image_ids, params)
        found[f"recall_at_{k}"] = round(recall_at_k(ranks, k), _DECIMALS)
        found[f"recall_at_{k}_low"] = round(interval.low, _DECIMALS)
        found[f"recall_at_{k}_high"] = round(interval.high, _DECIMALS)
    return found | {"count": len(ranks)}


def precision_metrics(
    fits: np.ndarray, is_fitting: np.ndarray, query_ids: Sequence[str], params: BootstrapParams
) -> dict[str, float]:
    """Return the precision at 1 and 10 with intervals over queries; the gallery stays fixed.

    Args: fits (queries, top_k) as `fits_in_order`; is_fitting (queries, images). `chance` is the
    precision of a random order, `best_precision_at_10` that of the best one.
    """
    found: dict[str, float] = {"chance": round(float(is_fitting.mean()), _DECIMALS)}
    for k in PRECISIONS:
        interval = mean_estimate(precision_at_k(fits, k), query_ids, params)
        found[f"precision_at_{k}"] = round(interval.value, _DECIMALS)
        found[f"precision_at_{k}_low"] = round(interval.low, _DECIMALS)
        found[f"precision_at_{k}_high"] = round(interval.high, _DECIMALS)

    # Few pictures that fit cannot fill the first k.
    k = max(PRECISIONS)
    best = np.minimum(is_fitting.sum(axis=1), k) / k
    found[f"best_precision_at_{k}"] = round(float(best.mean()), _DECIMALS)
    return found | {"count": len(fits)}


def as_json(found: Estimate, name: str) -> dict[str, float]:
    """Return {name, "low", "high", "count"}, rounded so that no machine-dependent digit is kept."""
    low, high = round(found.low, _DECIMALS), round(found.high, _DECIMALS)
    return {name: round(found.value, _DECIMALS), "low": low, "high": high, "count": found.count}


def _free_text(name: str, rows: Questions, params: BootstrapParams) -> dict[str, Any]:
    return {name: _accuracy(rows, params), f"{name}_by_kind": _by_kind(rows, _accuracy, params)}


def _existence(name: str, rows: Questions, params: BootstrapParams) -> dict[str, Any]:
    return {
        name: _accuracy(rows, params),
        f"{name}_by_kind": _by_kind(rows, _accuracy, params),
        f"{name}_f1": _mean_f1(rows, params),
        f"{name}_f1_by_kind": _by_kind(rows, _mean_f1, params),
    }


def _relations(name: str, rows: Questions, params: BootstrapParams) -> dict[str, Any]:
    return {
        name: _accuracy(rows, params),
        f"{name}_by_kind": _by_kind(rows, _accuracy, params),
        f"{name}_pairs": _group_accuracy(rows, params),
    }


def _multiple_choice(name: str, rows: Questions, params: BootstrapParams) -> dict[str, Any]:
    return {
        name: _group_accuracy(rows, params),
        f"{name}_by_kind": _by_kind(rows, _group_accuracy, params),
        f"{name}_single": _accuracy(rows, params),
    }


_SCORERS = dict.fromkeys(FREE_TEXT, _free_text) | {
    "existence": _existence,
    "relations": _relations,
    "multiple_choice": _multiple_choice,
}


def _accuracy(rows: Questions, params: BootstrapParams) -> dict[str, float]:
    scores = [row.score for row in rows]
    return as_json(mean_estimate(scores, _pictures(rows), params), "accuracy")


def _group_accuracy(rows: Questions, params: BootstrapParams) -> dict[str, float]:
    image_ids, scores = zip(*group_scores(rows), strict=True)
    return as_json(mean_estimate(scores, image_ids, params), "accuracy")


def _mean_f1(rows: Questions, params: BootstrapParams) -> dict[str, float]:
    """Return the unweighted mean over kinds of the F1 of "yes"."""
    kinds, kind_of_row = np.unique([row.kind for row in rows], return_inverse=True)
    is_kind = np.eye(len(kinds), dtype=bool)[kind_of_row]  # (questions, kinds)

    # Three counts of each kind, so that a resample sums them all at once.
    columns = (is_kind[:, :, None] * confusion_counts(rows)[:, None, :]).reshape(len(rows), -1)

    def mean_over_kinds(sums: np.ndarray) -> np.ndarray:
        return f1(sums.reshape(len(sums), -1, 3)).mean(axis=1)

    found = estimate(columns, _pictures(rows), mean_over_kinds, params)
    return as_json(found, "f1")


def _by_kind(
    rows: Questions,
    score: Callable[[Questions, BootstrapParams], Mapping[str, float]],
    params: BootstrapParams,
) -> dict[str, Mapping[str, float]]:
    rows_of = _grouped(rows, attrgetter("kind"))
    return {kind: score(rows_of[kind], params) for kind in sorted(rows_of)}


def _grouped(rows: Questions, key: Callable[[ScoredQuestion], str]) -> dict[str, Questions]:
    groups: dict[str, list[ScoredQuestion]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(groups)


def _pictures(rows: Questions) -> list[str]:
    return [row.image_id for row in rows]

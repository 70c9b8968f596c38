"""The short page: scores of a compressor that stores nothing, or that cannot be asked."""

from collections.abc import Mapping
from typing import Any

from components.reporting import metric_tables as tables
from components.reporting.metric_tables import COMPRESSED, Score
from components.reporting.origin_section import leaves
from components.reporting.wording import data_size, operations, plain


def short_content(
    metrics: Mapping[str, Any], compressor: Mapping[str, Any], why: str
) -> dict[str, Any]:
    """Return the content of the short page; `why` is the reason that there is no full one."""
    # a section each, empty where nothing was asked
    groups = [
        ("Answers", own_scores(tables.score_rows(metrics))),
        ("Answers that a downsampled picture gets wrong", own_scores(tables.hard_rows(metrics))),
        ("Captions", own_scores(tables.caption_rows(metrics))),
        ("Search", search_scores(metrics)),
        ("Composition", own_scores(tables.composition_rows(metrics))),
    ]

    # not every score is over all pictures
    num_pictures = 0
    for _, scores in groups:
        for _, score in scores:
            num_pictures = max(num_pictures, score.total)

    return {
        "method": metrics["method"],
        "why": why,
        "num_pictures": num_pictures,
        "groups": groups,
        "costs": cost_lines(metrics["costs"]),
        "provenance": [
            ("base model", compressor["base_model"]),
            *leaves(compressor["method"]),
            *leaves(compressor["versions"]),
        ],
    }


def own_scores(rows: list[tables.ScoreRow]) -> list[tuple[str, Score]]:
    """Return the compressor's scores."""
    return [(row.label, row.scores[COMPRESSED]) for row in rows if COMPRESSED in row.scores]


def search_scores(metrics: Mapping[str, Any]) -> list[tuple[str, Score]]:
    """Return recall at 1 both ways and precision at 1; none for a method that is not searched."""
    rows = []
    for way, found in metrics[COMPRESSED].get("retrieval", {}).items():
        rows.append((f"R@1, {plain(way)}", tables.recall_rows(found, 1, 1)[0].score))
    for row in tables.precision_rows(metrics[COMPRESSED].get("partial_queries", {})):
        rows.append((f"P@1, {row.label}", row.at_1))
    return rows


def cost_lines(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return tokens, bytes and operations, as people read them."""
    kept, asked = costs["bytes_per_picture"][COMPRESSED], costs["flops_per_question"][COMPRESSED]
    return [
        ("visual tokens", str(costs["visual_tokens"][COMPRESSED])),
        ("bytes per picture", "nothing is stored" if kept is None else data_size(kept)),
        ("operations, once per picture", operations(costs["flops_per_picture"][COMPRESSED])),
        ("operations per question", "it gives no answers" if asked is None else operations(asked)),
    ]

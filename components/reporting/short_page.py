"""What the short page shows: the scores of a compressor that stores nothing, or that cannot be asked."""

from collections.abc import Mapping
from typing import Any

from components.reporting import metric_tables as tables
from components.reporting.metric_tables import COMPRESSED, Score
from components.reporting.origin_section import leaves
from components.reporting.wording import data_size, operations


def short_content(
    metrics: Mapping[str, Any], compressor: Mapping[str, Any], why: str
) -> dict[str, Any]:
    """By the names that the template uses; `why` says why there is no full page."""
    groups = [
        ("Answers", own(tables.score_rows(metrics))),
        ("Captions", own(tables.caption_rows(metrics))),
        ("Search", recalls(metrics)),
        ("Composition", own(tables.composition_rows(metrics))),
    ]
    return {
        "method": metrics["method"],
        "why": why,
        "num_pictures": max((score.total for _, rows in groups for _, score in rows), default=0),
        "groups": groups,
        "costs": cost_lines(metrics["costs"]),
        "provenance": [
            ("base model", compressor["base_model"]),
            *leaves(compressor["method"]),
            *leaves(compressor["versions"]),
        ],
    }


def own(rows: list[tables.ScoreRow]) -> list[tuple[str, Score]]:
    """The compressor's scores."""
    return [(row.label, row.scores[COMPRESSED]) for row in rows if COMPRESSED in row.scores]


def recalls(metrics: Mapping[str, Any]) -> list[tuple[str, Score]]:
    """Recall at 1 both ways; none for a method that is not searched."""
    found = metrics[COMPRESSED].get("retrieval", {})
    return [
        (f"R@1, {way.replace('_', ' ')}", tables.recall_rows(found[way], 1, 1)[0].score)
        for way in found
    ]


def cost_lines(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Tokens, bytes and operations, as people read them."""
    kept, asked = costs["bytes_per_picture"][COMPRESSED], costs["flops_per_question"][COMPRESSED]
    return [
        ("visual tokens", str(costs["visual_tokens"][COMPRESSED])),
        ("bytes per picture", "nothing is stored" if kept is None else data_size(kept)),
        ("operations, once per picture", operations(costs["flops_per_picture"][COMPRESSED])),
        ("operations per question", "it gives no answers" if asked is None else operations(asked)),
    ]

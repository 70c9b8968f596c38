"""What the templates show, by the names they use."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.reporting import codecs_section as codecs
from components.reporting import curation_section as curation
from components.reporting import geometry, method_charts, plots
from components.reporting import methods_section as methods
from components.reporting import metric_tables as tables
from components.reporting.examples_section import Box, Description, Found
from components.reporting.inputs import Curves, Inputs
from components.reporting.origin_section import provenance_groups
from components.reporting.published import read_published
from components.reporting.thumbnails import Thumbnail
from components.reporting.wording import plain

LOSSES = {
    "Autoregressive loss": {"train/autoregressive_loss": "loss"},
    "Contrastive loss": {"train/contrastive_loss": "loss"},
    "Logit scale": {"train/logit_scale": "scale"},
    "Gradient norm": {"train/gradient_norm": "norm"},
}
VALIDATION = {
    "Short answers, validation": {"validation/short_answer_accuracy": "accuracy"},
    "Recall at 1, validation": {
        "validation/recall_at_1_text_to_image": "text to picture",
        "validation/recall_at_1_image_to_text": "picture to text",
    },
}
BAR = 250.0  # length of the longest bar, in units of its drawing
LARGE, SMALL = (320.0, 190.0), (210.0, 120.0)  # width and height of line charts


def page_content(
    inputs: Inputs,
    manifest: Mapping[str, Any],
    boxes: Sequence[Box],
    descriptions: Sequence[Description],
    searched: Sequence[Found],
    pictures: Mapping[str, Thumbnail],
    strips: Mapping[str, Thumbnail],
    file_bytes: float,
    seed: int,
) -> dict[str, Any]:
    """Everything on the page; `strips` are the stored tokens of a few pictures, drawn."""
    metrics, provenance = inputs.metrics, manifest["provenance"]
    costs = {row.system: row for row in tables.cost_rows(metrics["costs"])}
    names = system_names(costs)
    rows = tables.score_rows(metrics)
    groups, published = methods.group_runs(inputs.methods), read_published()
    return {
        "systems": tables.SYSTEMS,
        "names": names,
        "costs": costs,
        "dim": provenance["dim"],
        "prompt": provenance["model"]["prompt"],
        "stored": manifest["rows_kept"],
        "num_pictures": manifest["rows_in"],
        "num_questions": sum(box.total for box in boxes),
        "missing": {
            system: lost
            for system in tables.SYSTEMS
            if any((lost := metrics[system]["missing"]).values())
        },
        "seed": seed,
        "headline": tables.headline(rows),
        "scores": [with_chart(row, names) for row in rows],
        "parts_of": [
            (row, [with_chart(part, names) for part in row.parts]) for row in rows if row.parts
        ],
        "token_charts": [
            plots.token_chart(row, metrics["costs"]["visual_tokens"], names) for row in rows
        ],
        "codecs": codecs.codec_rows(inputs.codecs),
        "codec_charts": [codecs.codec_chart(score, inputs.codecs) for score in codecs.SCORES],
        "num_method_runs": len(inputs.methods),
        "method_legend": method_charts.method_legend(groups),
        "method_charts": method_charts.method_charts(groups),
        "method_tables": methods.method_tables(groups, published),
        "method_costs": methods.cost_rows(groups),
        "method_stages": methods.STAGES,
        "source": published.source,
        "size_bars": size_bars(costs, file_bytes),
        "file_bytes": file_bytes,
        "recalls": [(title, found, plots.recall_chart(found)) for title, found in recalls(metrics)],
        "compositions": [with_chart(row, names) for row in tables.composition_rows(metrics)],
        "caption_scores": tables.caption_rows(metrics),
        "boxes": boxes,
        "descriptions": descriptions,
        "searched": searched,
        "pictures": pictures,
        "strips": strips,
        "training_charts": charts(inputs.training, LOSSES, plots.NUMBERS)
        + charts(inputs.training, VALIDATION, plots.SHARES),
        "best_step": best_step(inputs.training.get("validation/score", [])),
        "base_charts": [
            plots.line_chart(plain(kind), {kind: points}, plots.SHARES, SMALL)
            for kind, points in inputs.base.items()
        ],
        "sources": curation.source_rows(inputs.sources),
        "rejected": curation.reject_rows(inputs.sources, inputs.rejects),
        "repaired": curation.repair_rows(inputs.sources),
        "checks": curation.table_checks(inputs.expectations),
        "provenance": provenance_groups(inputs.compressor, manifest),
    }


def system_names(costs: Mapping[str, tables.CostRow]) -> dict[str, str]:
    """Systems by what the language model reads in the place of the picture."""
    return {
        tables.COMPRESSED: f"{costs[tables.COMPRESSED].visual_tokens} summary tokens",
        tables.UNCOMPRESSED: f"all {costs[tables.UNCOMPRESSED].visual_tokens} image tokens",
        tables.AVERAGE_POOLED: f"{costs[tables.AVERAGE_POOLED].visual_tokens} averaged tokens",
        tables.BLIND: "no picture",
    }


def with_chart(
    row: tables.ScoreRow, names: Mapping[str, str]
) -> tuple[tables.ScoreRow, plots.IntervalChart]:
    return row, plots.interval_chart(row, names)


def size_bars(
    costs: Mapping[str, tables.CostRow], file_bytes: float
) -> list[tuple[str, str, float, float]]:
    """(label, system or "file", bytes, length) of what can be kept of a picture."""
    kept = [
        ("the picture as PNG", "file", file_bytes),
        *(
            (
                f"{costs[system].visual_tokens} {noun}",
                system,
                float(costs[system].bytes_per_picture),
            )
            for system, noun in (
                (tables.UNCOMPRESSED, "image tokens"),
                (tables.COMPRESSED, "summary tokens"),
            )
        ),
    ]
    lengths = geometry.bar_widths([size for _, _, size in kept], BAR)
    return [(*row, length) for row, length in zip(kept, lengths, strict=True)]


def recalls(metrics: Mapping[str, Any]) -> list[tuple[str, list[tables.RecallRow]]]:
    """Both directions of search, with chance."""
    found = metrics[tables.COMPRESSED]["retrieval"]
    num_images, num_texts = found["image_to_text"]["count"], found["text_to_image"]["count"]
    return [
        ("Text finds its picture", tables.recall_rows(found["text_to_image"], num_images, 1)),
        (
            "Picture finds one of its texts",
            tables.recall_rows(found["image_to_text"], num_texts, num_texts / num_images),
        ),
    ]


def charts(
    curves: Curves, wanted: Mapping[str, Mapping[str, str]], values: plots.Values
) -> list[plots.Chart]:
    """One chart per title whose curves were all logged."""
    return [
        plots.line_chart(title, {name: curves[key] for key, name in keys.items()}, values, LARGE)
        for title, keys in wanted.items()
        if all(curves.get(key) for key in keys)
    ]


def best_step(scores: Sequence[tuple[float, float]]) -> int | None:
    """The step of the best validation, the first of equal ones: its weights were kept."""
    return int(max(scores, key=lambda point: point[1])[0]) if scores else None

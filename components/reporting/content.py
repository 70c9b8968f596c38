"""Everything that the templates show, by the names they use."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from components.reporting import codecs_section as codecs
from components.reporting import curation_section as curation
from components.reporting import method_charts, plots
from components.reporting import methods_section as methods
from components.reporting import metric_tables as tables
from components.reporting.examples_section import Box, Description, Found
from components.reporting.inputs import Curves, Inputs
from components.reporting.origin_section import origin_groups
from components.reporting.published import read_published
from components.reporting.seeds_section import seed_rows
from components.reporting.thumbnails import Thumbnail
from components.reporting.wording import plain

# title -> metric of training -> name of its curve
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
LARGE, SMALL = (320.0, 190.0), (210.0, 120.0)  # width and height of line charts


class Examples(NamedTuple):
    """Drawn examples and the pictures that they show, by picture id."""

    boxes: Sequence[Box]
    descriptions: Sequence[Description]
    searched: Sequence[Found]
    pictures: Mapping[str, Thumbnail]
    strips: Mapping[str, Thumbnail]  # the stored tokens of a few pictures


def page_content(
    inputs: Inputs,
    manifest: Mapping[str, Any],
    examples: Examples,
    file_bytes: float,
    seed: int,
) -> dict[str, Any]:
    """Return everything on the page but the section of `inspect`.

    `file_bytes` is the mean size of a picture file of the corpus.
    """
    metrics, provenance = inputs.metrics, manifest["provenance"]
    costs = tables.cost_rows(metrics["costs"])
    names = system_names(costs)

    return {
        # the head of the page
        "systems": list(names),
        "names": names,
        "costs": costs,
        "dim": provenance["dim"],
        "prompt": provenance["model"]["prompt"],
        "stored": manifest["rows_kept"],
        "num_pictures": manifest["rows_in"],
        "missing": missing_counts(metrics),
        "seed": seed,
        "file_bytes": file_bytes,
        # examples
        **examples._asdict(),
        "num_questions": sum(box.total for box in examples.boxes),
        # sections
        **score_content(metrics, names),
        "seed_rows": seed_rows(inputs.seeds),
        **search_content(metrics),
        "size_chart": kept_bytes_chart(costs, file_bytes),
        "codecs": codecs.codec_rows(inputs.codecs),
        "codec_charts": [codecs.codec_chart(score, inputs.codecs) for score in codecs.SCORES],
        **methods_content(inputs.methods),
        **training_content(inputs.training, inputs.base),
        "sources": curation.source_rows(inputs.sources),
        "rejected": curation.reject_rows(inputs.sources, inputs.rejects),
        "repaired": curation.repair_rows(inputs.sources),
        "checks": curation.table_checks(inputs.expectations),
        "origin": origin_groups(inputs.compressor, manifest),
    }


def system_names(costs: Mapping[str, tables.CostRow]) -> dict[str, str]:
    """Name systems by the tokens that the language model reads in place of the picture."""
    words = {
        tables.COMPRESSED: "{} summary tokens",
        tables.UNCOMPRESSED: "all {} image tokens",
        tables.AVERAGE_POOLED: "{} averaged tokens",
        tables.DOWNSAMPLED: "{} tokens of a smaller picture",
        tables.BLIND: "no picture",
    }
    return {system: words[system].format(row.visual_tokens) for system, row in costs.items()}


def missing_counts(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """Return the counts of missing questions, for systems that could not be asked all of them."""
    missing = {}
    for system in tables.SYSTEMS:
        lost = metrics[system]["missing"] if system in metrics else {}
        if any(lost.values()):
            missing[system] = lost
    return missing


def score_content(metrics: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return tables and charts of the systems side by side."""
    rows, visual_tokens = tables.score_rows(metrics), metrics["costs"]["visual_tokens"]

    return {
        "headline": tables.headline(rows),
        "scores": rows,
        "hard_scores": tables.hard_rows(metrics),
        "token_charts": [plots.token_chart(row, visual_tokens, names) for row in rows],
        "compositions": tables.composition_rows(metrics),
        "caption_scores": tables.caption_rows(metrics),
    }


def search_content(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return recall in both directions of search and precision, with chance."""
    recalls = metrics[tables.COMPRESSED]["retrieval"]

    # a text has one picture, a picture several texts
    num_images, num_texts = recalls["image_to_text"]["count"], recalls["text_to_image"]["count"]
    to_image = tables.recall_rows(recalls["text_to_image"], num_images, 1)
    to_text = tables.recall_rows(recalls["image_to_text"], num_texts, num_texts / num_images)

    return {
        "text_to_image": to_image,
        "image_to_text": to_text,
        "recall_charts": [
            plots.recall_chart("Text finds its picture", to_image),
            plots.recall_chart("Picture finds one of its texts", to_text),
        ],
        "precisions": tables.precision_rows(metrics[tables.COMPRESSED].get("partial_queries", {})),
    }


def kept_bytes_chart(costs: Mapping[str, tables.CostRow], file_bytes: float) -> plots.Chart:
    """Draw the bytes of a picture as a file, as image tokens and as summary tokens."""
    sizes = {"the picture as PNG": (file_bytes, "line")}
    for system, noun in ((tables.UNCOMPRESSED, "image"), (tables.COMPRESSED, "summary")):
        row = costs[system]
        sizes[f"{row.visual_tokens} {noun} tokens"] = (row.bytes_per_picture, system)
    return plots.size_chart(sizes)


def methods_content(runs: Sequence[methods.MethodRun]) -> dict[str, Any]:
    """Return the comparison with other methods, and the numbers that the paper prints."""
    # the runs of this project are shown beside the paper's numbers, never among them
    groups, published = methods.group_runs(runs), read_published()

    return {
        "num_method_runs": len(runs),
        "method_legend": method_charts.method_legend(groups),
        "method_charts": method_charts.method_charts(groups),
        "method_tables": methods.method_tables(groups, published),
        "method_costs": methods.method_cost_rows(groups),
        "method_stages": methods.STAGES,
        "source": published.source,
    }


def training_content(training: Curves, base: Curves) -> dict[str, Any]:
    """Return the curves of training, and of the base model's training if they were logged."""
    losses = training_charts(training, LOSSES, plots.NUMBERS)
    validation = training_charts(training, VALIDATION, plots.SHARES)

    # one small chart for every kind of question
    base_charts = []
    for kind, points in base.items():
        base_charts.append(plots.line_chart(plain(kind), {kind: points}, plots.SHARES, SMALL))

    return {
        "training_charts": losses + validation,
        "best_step": best_step(training.get("validation/score", [])),
        "base_charts": base_charts,
    }


def training_charts(
    curves: Curves, wanted: Mapping[str, Mapping[str, str]], values: plots.Values
) -> list[plots.Chart]:
    """Draw a chart for every title whose curves were all logged."""
    charts = []
    for title, names in wanted.items():
        logged = {}
        for metric, name in names.items():
            if points := curves.get(metric):
                logged[name] = points

        # a run may leave out a loss, or stop before the first validation
        if len(logged) == len(names):
            charts.append(plots.line_chart(title, logged, values, LARGE))
    return charts


def best_step(scores: Sequence[tuple[float, float]]) -> int | None:
    """Return the step with the best validation score, whose weights were kept.

    The first of several equal ones; None without validation.
    """
    return int(max(scores, key=lambda point: point[1])[0]) if scores else None

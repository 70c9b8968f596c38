"""From metrics to what stands in the tables and headlines of the page."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from components.reporting.wording import plain

COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, BLIND = (
    "compressed",
    "uncompressed",
    "average_pooled",
    "blind",
)
SYSTEMS = (COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, BLIND)  # in the order in which they are shown
BENCHMARKS = {
    "short_answer": ("Short answers", "as in VQA: the exact word"),
    "word_reading": ("Reading", "as in TextVQA: the written word"),
    "existence": ("Existence", "as in POPE: yes or no"),
    "relations": ("Relations", "as in MME: yes or no"),
    "multiple_choice": ("Multiple choice", "as in MMBench: right for every order of the options"),
    "unanswerable": ("Unanswerable", "as in VizWiz: to say that it cannot be seen"),
}
OTHER_COUNTS = {  # other ways to count the same answers
    "existence": {"existence_f1": "F1 of “yes”, mean over the kinds"},
    "relations": {"relations_pairs": "both questions of a pair right"},
    "multiple_choice": {"multiple_choice_single": "single questions, one order each"},
}
CAPTION_SCORES = {"cider": "CIDEr", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}
VALUES = ("accuracy", "f1", "score")  # the key of the value, beside "low", "high" and "count"


class Score(NamedTuple):
    """A value with its confidence interval, over `total` things."""

    value: float
    low: float
    high: float
    total: int


class ScoreRow(NamedTuple):
    """One line of a table of scores."""

    label: str
    note: str
    scores: dict[str, Score]  # by system
    parts: tuple["ScoreRow", ...] = ()

    @property
    def total(self) -> int:
        return next(iter(self.scores.values())).total


class Headline(NamedTuple):
    """The page in a few numbers; means are over the benchmarks that both systems have."""

    accuracy: dict[str, float]  # mean per system
    kept: float  # mean accuracy of the compressor / that of the uncompressed base
    # the same above the blind base: of what there is to gain by looking
    kept_of_seeing: float | None


def score_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """The question benchmarks that were asked, each with its kinds and with other ways to count."""
    return [
        ScoreRow(label, note, scores, (*_kinds(metrics, key), *_other_counts(metrics, key)))
        for key, (label, note) in BENCHMARKS.items()
        if (scores := scores_of(metrics, key))
    ]


def scores_of(metrics: Mapping[str, Any], *keys: str) -> dict[str, Score]:
    """One score of every system that has it, found by walking `keys` down from the system."""
    found = {}
    for system in SYSTEMS:
        entry: Any = metrics.get(system)
        for key in keys:
            entry = entry.get(key) if entry else None
        if entry:
            found[system] = to_score(entry)
    return found


def to_score(entry: Mapping[str, float]) -> Score:
    """From {"accuracy" (or another of VALUES), "low", "high", "count"}."""
    value = next(entry[name] for name in VALUES if name in entry)
    return Score(value, entry["low"], entry["high"], int(entry["count"]))


def headline(rows: Iterable[ScoreRow]) -> Headline:
    """Raises ValueError when there is no benchmark that both systems were asked."""
    both = [row for row in rows if COMPRESSED in row.scores and UNCOMPRESSED in row.scores]
    if not both:
        raise ValueError(
            "no benchmark was asked of both the compressor and its base; there is nothing to report"
        )
    systems = [system for system in SYSTEMS if all(system in row.scores for row in both)]
    mean = {system: sum(row.scores[system].value for row in both) / len(both) for system in systems}
    blind = mean.get(BLIND)
    is_seeing = blind is not None and mean[UNCOMPRESSED] > blind
    return Headline(
        mean,
        mean[COMPRESSED] / mean[UNCOMPRESSED] if mean[UNCOMPRESSED] else 0.0,
        (mean[COMPRESSED] - blind) / (mean[UNCOMPRESSED] - blind)
        if is_seeing and blind is not None
        else None,
    )


def composition_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Accuracy per subset of caption pairs."""
    subsets = sorted(
        {
            subset
            for system in SYSTEMS
            for subset in metrics.get(system, {}).get("compositionality", {})
        }
    )
    rows = [(subset, scores_of(metrics, "compositionality", subset)) for subset in subsets]
    return [ScoreRow(plain(subset), "", scores) for subset, scores in rows if scores]


def caption_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Caption metrics; none when no picture was described."""
    rows = [(label, scores_of(metrics, "captioning", key)) for key, label in CAPTION_SCORES.items()]
    return [ScoreRow(label, "", scores) for label, scores in rows if scores]


class RecallRow(NamedTuple):
    """How often the right one is among the first k."""

    k: int
    score: Score
    chance: float  # of a random order


def recall_rows(recalls: Mapping[str, float], gallery: float, wanted: float) -> list[RecallRow]:
    """Recall in one direction, `gallery` things to find of which `wanted` are right, on average."""
    ks = sorted(
        int(name.rpartition("_")[2])
        for name in recalls
        if name.removeprefix("recall_at_").isdecimal()
    )
    total = int(recalls["count"])
    return [
        RecallRow(
            k,
            Score(
                recalls[f"recall_at_{k}"],
                recalls[f"recall_at_{k}_low"],
                recalls[f"recall_at_{k}_high"],
                total,
            ),
            chance_recall(k, gallery, wanted),
        )
        for k in ks
    ]


def chance_recall(k: int, gallery: float, wanted: float) -> float:
    """Probability that `k` different draws hit at least one of the wanted."""
    miss = 1.0
    for drawn in range(min(k, int(gallery))):
        miss *= max(0.0, (gallery - wanted - drawn) / (gallery - drawn))
    return 1 - miss


class CostRow(NamedTuple):
    """What a system keeps of a picture and computes, in bytes and operations."""

    system: str
    visual_tokens: int
    bytes_per_picture: int
    flops_per_picture: int
    flops_per_question: int


def cost_rows(costs: Mapping[str, Any]) -> list[CostRow]:
    return [
        CostRow(system, *(int(costs[name][system]) for name in CostRow._fields[1:]))
        for system in SYSTEMS
    ]


def _kinds(metrics: Mapping[str, Any], key: str) -> list[ScoreRow]:
    name = f"{key}_by_kind"
    kinds = sorted({kind for system in SYSTEMS for kind in metrics.get(system, {}).get(name, {})})
    rows = [ScoreRow(plain(kind), "", scores_of(metrics, name, kind)) for kind in kinds]
    return rows if len(rows) > 1 else []  # a benchmark of one kind has been told already


def _other_counts(metrics: Mapping[str, Any], key: str) -> list[ScoreRow]:
    rows = [
        (label, scores_of(metrics, other)) for other, label in OTHER_COUNTS.get(key, {}).items()
    ]
    return [ScoreRow(label, "", scores) for label, scores in rows if scores]

"""Tables and headlines of the page, from metrics."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from components.reporting.wording import plain

COMPRESSED, UNCOMPRESSED = "compressed", "uncompressed"
AVERAGE_POOLED, DOWNSAMPLED, BLIND = "average_pooled", "downsampled", "blind"
# in the order in which they are shown
SYSTEMS = (COMPRESSED, UNCOMPRESSED, AVERAGE_POOLED, DOWNSAMPLED, BLIND)
HARD = "hard"  # key of the scores on the questions that a downsampled picture gets wrong
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
    kept_of_seeing: float | None  # the same above the blind base, where there is anything to gain


def score_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Return the benchmarks that were asked, each with its kinds and with other ways to count."""
    rows = []
    for key, (label, note) in BENCHMARKS.items():
        if scores := scores_of(metrics, key):
            parts = (*_kinds(metrics, key), *_other_counts(metrics, key, ()))
            rows.append(ScoreRow(label, note, scores, parts))
    return rows


def hard_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Return the benchmarks on the questions that a downsampled picture gets wrong, if any."""
    rows = []
    for key, (label, note) in BENCHMARKS.items():
        if scores := scores_of(metrics, HARD, key):
            others = tuple(_other_counts(metrics, key, (HARD,)))
            rows.append(ScoreRow(label, note, scores, others))
    return rows


def scores_of(metrics: Mapping[str, Any], *keys: str) -> dict[str, Score]:
    """Return a score of every system that has it, under `keys` from the system down."""
    found = {}
    for system in SYSTEMS:
        # any of the keys may be missing
        entry: Any = metrics.get(system)
        for key in keys:
            entry = entry.get(key) if entry else None
        if entry:
            found[system] = to_score(entry)
    return found


def to_score(entry: Mapping[str, float]) -> Score:
    """Read {"accuracy" (or another of VALUES), "low", "high", "count"}."""
    return Score(value_of(entry), entry["low"], entry["high"], int(entry["count"]))


def value_of(entry: Mapping[str, float]) -> float:
    """Return the value of an entry, under whichever of VALUES it has."""
    return next(entry[name] for name in VALUES if name in entry)


def headline(rows: Iterable[ScoreRow]) -> Headline:
    """Return the headline. Raises ValueError if both systems were asked no common benchmark."""
    both = [row for row in rows if row.scores.keys() >= {COMPRESSED, UNCOMPRESSED}]
    if not both:
        raise ValueError(
            "no benchmark was asked of both the compressor and its base; there is nothing to report"
        )

    # means only of systems that were asked all of these
    mean = {}
    for system in SYSTEMS:
        scores = [row.scores[system].value for row in both if system in row.scores]
        if len(scores) == len(both):
            mean[system] = sum(scores) / len(both)

    # a base that sees nothing gains nothing by looking
    compressed, uncompressed, blind = mean[COMPRESSED], mean[UNCOMPRESSED], mean.get(BLIND)
    kept = compressed / uncompressed if uncompressed else 0.0
    kept_of_seeing = None
    if blind is not None and uncompressed > blind:
        kept_of_seeing = (compressed - blind) / (uncompressed - blind)
    return Headline(mean, kept, kept_of_seeing)


def composition_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Return accuracy per subset of caption pairs."""
    return _rows_below(metrics, "compositionality")


def caption_rows(metrics: Mapping[str, Any]) -> list[ScoreRow]:
    """Return caption metrics; none if no picture was described."""
    rows = []
    for key, label in CAPTION_SCORES.items():
        if scores := scores_of(metrics, "captioning", key):
            rows.append(ScoreRow(label, "", scores))
    return rows


class RecallRow(NamedTuple):
    """Recall among the first k."""

    k: int
    score: Score
    chance: float  # of a random order


def recall_rows(recalls: Mapping[str, float], gallery: float, wanted: float) -> list[RecallRow]:
    """Return recall in one direction: of `gallery` things, `wanted` are right on average."""
    rows = []
    for key, value in recalls.items():
        # the ends of an interval stand beside it, as recall_at_k_low and recall_at_k_high
        k = key.removeprefix("recall_at_")
        if not k.isdecimal():
            continue

        low, high = recalls[f"{key}_low"], recalls[f"{key}_high"]
        score = Score(value, low, high, int(recalls["count"]))
        rows.append(RecallRow(int(k), score, chance_recall(int(k), gallery, wanted)))
    return sorted(rows)


def chance_recall(k: int, gallery: float, wanted: float) -> float:
    """Return the probability that `k` different draws hit at least one of the wanted."""
    # one minus the probability that every draw misses
    miss = 1.0
    for drawn in range(min(k, int(gallery))):
        miss *= max(0.0, (gallery - wanted - drawn) / (gallery - drawn))
    return 1 - miss


class PrecisionRow(NamedTuple):
    """Precision of the queries of a kind, each of which fits several pictures."""

    label: str
    at_1: Score
    at_10: Score
    best_at_10: float  # of the best order
    chance: float  # of a random order


def precision_rows(kinds: Mapping[str, Mapping[str, float]]) -> list[PrecisionRow]:
    """Return the precision of every kind of query."""
    rows = []
    for kind, found in kinds.items():
        at_1, at_10 = _precision(found, 1), _precision(found, 10)
        best, chance = found["best_precision_at_10"], found["chance"]
        rows.append(PrecisionRow(plain(kind), at_1, at_10, best, chance))
    return rows


class CostRow(NamedTuple):
    """The costs of a system, in bytes and operations."""

    visual_tokens: int
    bytes_per_picture: int
    flops_per_picture: int
    flops_per_question: int


def cost_rows(costs: Mapping[str, Any]) -> dict[str, CostRow]:
    """Return the costs of every system that was asked."""
    rows = {}
    for system in SYSTEMS:
        if system not in costs["visual_tokens"]:
            continue
        numbers = [int(costs[name][system]) for name in CostRow._fields]
        rows[system] = CostRow(*numbers)
    return rows


def _precision(found: Mapping[str, float], k: int) -> Score:
    key = f"precision_at_{k}"
    return Score(found[key], found[f"{key}_low"], found[f"{key}_high"], int(found["count"]))


def _rows_below(metrics: Mapping[str, Any], key: str) -> list[ScoreRow]:
    """Return a row for every score under `key`, by name."""
    # systems may have been asked different things
    names: set[str] = set()
    for system in SYSTEMS:
        names.update(metrics.get(system, {}).get(key, {}))

    rows = []
    for name in sorted(names):
        if scores := scores_of(metrics, key, name):
            rows.append(ScoreRow(plain(name), "", scores))
    return rows


def _kinds(metrics: Mapping[str, Any], key: str) -> list[ScoreRow]:
    rows = _rows_below(metrics, f"{key}_by_kind")
    return rows if len(rows) > 1 else []  # the only kind is the benchmark itself


def _other_counts(metrics: Mapping[str, Any], key: str, above: tuple[str, ...]) -> list[ScoreRow]:
    """Return a row for each other way to count a benchmark; `above` are the keys before its own."""
    rows = []
    for other, label in OTHER_COUNTS.get(key, {}).items():
        if scores := scores_of(metrics, *above, other):
            rows.append(ScoreRow(label, "", scores))
    return rows

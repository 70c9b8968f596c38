"""Tables against sums by hand."""

from math import comb

import pytest

from components.reporting import metric_tables as tables
from tests.components.reporting.results import ACCURACY, metrics


def test_rows_stand_for_the_benchmarks_that_were_asked_with_every_system() -> None:
    rows = tables.score_rows(metrics())
    assert [row.label for row in rows] == ["Short answers", "Existence"]
    assert {system: score.value for system, score in rows[0].scores.items()} == ACCURACY
    assert rows[0].total == 20


def test_parts_are_the_kinds_and_the_other_ways_to_count() -> None:
    short_answers, existence = tables.score_rows(metrics())
    assert [part.label for part in short_answers.parts] == ["colour", "count"]
    # its only kind is itself
    assert [part.label for part in existence.parts] == ["F1 of “yes”, mean over the kinds"]
    assert existence.parts[0].scores["blind"].value == 0.3


def test_headline_is_a_ratio_of_means_and_the_share_of_what_looking_gains() -> None:
    found = tables.headline(tables.score_rows(metrics()))
    assert found.accuracy["compressed"] == pytest.approx((0.8 + 0.4) / 2)
    assert found.kept == pytest.approx(0.6 / 0.675)
    assert found.kept_of_seeing == pytest.approx((0.6 - 0.3) / (0.675 - 0.3))


def test_headline_does_not_speak_of_seeing_when_the_base_sees_nothing() -> None:
    results = metrics()
    results["uncompressed"] = results["blind"]
    assert tables.headline(tables.score_rows(results)).kept_of_seeing is None


def test_headline_without_a_common_benchmark_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to report"):
        tables.headline([])


def test_benchmark_that_one_system_was_not_asked_is_left_out_of_the_means() -> None:
    results = metrics()
    del results["compressed"]["existence"]
    found = tables.headline(tables.score_rows(results))
    assert found.accuracy == pytest.approx(ACCURACY)


@pytest.mark.parametrize(
    ("k", "gallery", "wanted"), [(1, 40, 1), (10, 40, 1), (5, 200, 5), (10, 10, 3), (7, 8, 2)]
)
def test_chance_is_the_hypergeometric_one(k: int, gallery: int, wanted: int) -> None:
    assert tables.chance_recall(k, gallery, wanted) == pytest.approx(
        1 - comb(gallery - wanted, k) / comb(gallery, k)
    )


def test_recall_rows_are_in_order_of_k_with_their_intervals() -> None:
    rows = tables.recall_rows(
        metrics()["compressed"]["retrieval"]["text_to_image"], gallery=10, wanted=1
    )
    assert [(row.k, row.score.value, row.chance) for row in rows] == [
        (1, 0.5, pytest.approx(0.1)),
        (5, 0.75, pytest.approx(0.5)),
        (10, 1.0, pytest.approx(1.0)),
    ]
    assert rows[0].score == tables.Score(0.5, 0.4, 0.5, 50)


def test_precision_rows_have_what_can_be_reached_at_most_and_by_chance() -> None:
    rows = tables.precision_rows(metrics()["compressed"]["partial_queries"])
    assert [row.label for row in rows] == ["one object", "two object"]
    assert rows[0].at_1 == pytest.approx(tables.Score(0.7, 0.6, 0.8, 24))
    assert rows[0].at_10 == pytest.approx(tables.Score(0.4, 0.3, 0.5, 24))
    assert (rows[0].best_at_10, rows[0].chance) == (0.9, 0.125)
    assert tables.precision_rows({}) == []


def test_caption_and_composition_rows_may_be_missing() -> None:
    assert [row.label for row in tables.caption_rows(metrics())] == ["CIDEr", "BLEU-4"]
    assert [row.label for row in tables.composition_rows(metrics())] == ["swap object"]
    assert tables.caption_rows({}) == []
    assert tables.composition_rows({}) == []


def test_hard_rows_are_the_benchmarks_of_the_hard_subset() -> None:
    row, existence = tables.hard_rows(metrics())
    assert (row.label, row.parts) == ("Short answers", ())
    assert [part.label for part in existence.parts] == ["F1 of “yes”, mean over the kinds"]
    assert existence.parts[0].scores["blind"].value == 0.2
    expected = {system: value / 3 for system, value in ACCURACY.items()}
    assert {system: score.value for system, score in row.scores.items()} == expected
    without = metrics()
    for system in ACCURACY:
        del without[system]["hard"]
    assert tables.hard_rows(without) == []


def test_costs_are_of_the_systems_that_were_asked() -> None:
    costs = metrics()["costs"]
    assert list(tables.cost_rows(costs)) == list(tables.SYSTEMS)
    few = {}
    for name, column in costs.items():
        few[name] = {key: value for key, value in column.items() if key != "downsampled"}
    assert list(tables.cost_rows(few)) == [
        system for system in tables.SYSTEMS if system != "downsampled"
    ]

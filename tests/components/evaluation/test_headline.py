import json
from pathlib import Path

import pytest

from components.evaluation.headline import NAMES, SCORES, headline_scores

METRICS = Path(__file__).parents[3] / "results/metrics.json"


def test_headline_of_the_committed_run_names_its_scores() -> None:
    metrics = json.loads(METRICS.read_text())
    found = headline_scores(metrics)
    assert found["short_answers"] == metrics["compressed"]["short_answer"]["accuracy"]
    assert found["cider"] == metrics["compressed"]["captioning"]["cider"]["score"]
    assert (
        found["image_to_text_r1"]
        == metrics["compressed"]["retrieval_maxsim"]["image_to_text"]["recall_at_1"]
    )
    swapped = metrics["uncompressed"]["compositionality"]["swap_object"]["accuracy"]
    assert found["base_swapped_objects"] == swapped
    assert all(isinstance(value, float) for value in found.values())
    assert found.keys() <= NAMES


def test_scores_that_are_not_there_are_left_out() -> None:
    precision = {"precision_at_1": 0.5, "precision_at_10": 0.0}
    metrics = {
        "compressed": {"partial_queries": {"one_object": precision}, "captioning": {}},
        "blind": {"short_answer": {"accuracy": 0.2}},
    }
    assert headline_scores(metrics) == {"one_object_p1": 0.5, "one_object_p10": 0.0}
    assert headline_scores({"compressed": {}}) == {}


def test_maxsim_goes_before_the_mean() -> None:
    by_mean, by_tokens = ({"one_object": {"precision_at_1": value}} for value in (0.5, 0.75))
    metrics = {"compressed": {"partial_queries": by_mean, "partial_queries_maxsim": by_tokens}}
    assert headline_scores(metrics) == {"one_object_p1": 0.75}


@pytest.mark.parametrize("name", SCORES)
def test_every_score_has_a_name_for_both_systems(name: str) -> None:
    entry: object = 0.25
    for key in reversed(SCORES[name]):
        entry = {key: entry}
    metrics = {"compressed": entry, "uncompressed": entry}
    assert headline_scores(metrics) == {name: 0.25, f"base_{name}": 0.25}

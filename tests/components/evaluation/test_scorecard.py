import numpy as np

from components.evaluation.intervals import BootstrapParams
from components.evaluation.question_set import QuestionSet
from components.evaluation.recall import MEAN, RANKINGS
from components.evaluation.scorecard import Embeddings, partial_query_metrics

BOOTSTRAP = BootstrapParams(resamples=50, confidence=0.95, seed=0)


def test_precision_of_partial_queries_is_that_counted_by_hand() -> None:
    """Four pictures on a quarter circle, one of which is not stored; three queries."""
    angles = {"a": 0.0, "b": 0.3, "c": 0.6, "red": 0.0, "dot": 0.6, "red dot": 0.25}
    vectors = {name: np.array([np.cos(at), np.sin(at)]) for name, at in angles.items()}
    images = {name: vectors[name] for name in "abc"}
    texts = {name: vectors[name] for name in ("red", "dot", "red dot")}
    queries = [
        {"query_id": "1", "kind": "one_object", "text": "red", "image_ids": ["a", "c"]},
        {"query_id": "2", "kind": "one_object", "text": "dot", "image_ids": ["a", "lost"]},
        {"query_id": "3", "kind": "two_object", "text": "red dot", "image_ids": ["b"]},
    ]
    question_set = QuestionSet({"a": [], "b": []}, {}, {}, queries)
    assert question_set.image_ids == ["a", "b", "c", "lost"]

    found = partial_query_metrics(
        question_set, Embeddings(images, texts), RANKINGS[MEAN], BOOTSTRAP
    )
    # red: a, b, c, of which a and c fit; dot: c, b, a, of which a fits; red dot: b, a, c
    one, two = found["one_object"], found["two_object"]
    assert (one["precision_at_1"], one["precision_at_10"]) == (0.5, 0.15)
    assert (two["precision_at_1"], two["precision_at_10"]) == (1.0, 0.1)
    assert (one["count"], two["count"]) == (2, 1)
    # four of eight pairs fit, one of four; two pictures fit each of one object, one of two
    assert (one["chance"], one["best_precision_at_10"]) == (0.5, 0.2)
    assert (two["chance"], two["best_precision_at_10"]) == (0.25, 0.1)
    # of two queries with 1 and 0, some draws have only one of them
    assert (one["precision_at_1_low"], one["precision_at_1_high"]) == (0, 1)
    assert two["precision_at_1_low"] == two["precision_at_1_high"] == 1


def test_a_query_that_is_a_caption_too_is_embedded_once() -> None:
    queries = [{"text": text, "image_ids": ["a"]} for text in ("red", "dot", "dot", "a dog")]
    question_set = QuestionSet({}, {"a": ["a dog", "dot"]}, {}, queries)
    assert question_set.texts(1) == ["a dog"]
    assert question_set.query_texts(1) == ["dot", "red"]
    assert question_set.query_texts(2) == ["red"]

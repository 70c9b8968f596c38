"""The benchmark's worlds and rankings against what they claim to be."""

import numpy as np

from benchmarks.search import CENTRES, clustered_world, measure, random_world, ranking, ranks


def test_worlds_hold_unit_vectors_and_only_one_has_clusters() -> None:
    for world in (random_world, clustered_world):
        np.testing.assert_allclose(np.linalg.norm(world(50, 64), axis=1), 1, atol=1e-5)
    centres = random_world(CENTRES, 256, seed=1)
    nearest = (clustered_world(200, 256) @ centres.T).max(axis=1)
    np.testing.assert_allclose(nearest, 0.5**0.5, atol=0.15)  # cosine with the own centre
    assert (random_world(200, 256) @ centres.T).max() < 0.5


def test_all_kinds_are_measured_and_exact_finds_everything(tmp_path) -> None:  # type: ignore[no-untyped-def]
    vectors = random_world(400, 64)
    rows = list(measure("random", vectors[64:], vectors[:64], tmp_path))
    assert [row.kind for row in rows] == ["numpy", "exact", "approximate"]
    assert [row.recall for row in rows] == [1, 1, 1]  # 336 pictures are fewer than the candidates
    assert rows[1].disk_bytes > 336 * 64 * 4
    assert 0 < rows[2].memory_bytes < rows[1].disk_bytes / 4


def test_ranking_counts_first_places() -> None:
    owners = np.array([0, 0, 1])
    # picture 0 prefers the caption of 1
    similarities = np.array([[0.9, 0.1, 0.95], [0.2, 0.3, 0.5]])
    found = ranking("x", similarities, similarities, owners)
    assert found.image_to_text == 0.5
    assert found.text_to_image == 1 / 3
    np.testing.assert_array_equal(ranks(similarities), [[1, 2, 0], [2, 1, 0]])

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from components.curation.deduplication import (
    Checked,
    NearDuplicateParams,
    make_ids_unique,
    perceptual_hash,
    reject_duplicate_ids,
    reject_duplicate_pictures,
    reject_duplicate_samples,
    reject_leaks,
    representatives,
)

PARAMS = NearDuplicateParams(hash_size=24, max_distance=12, min_contrast=3.0)
NUM_BITS = 64


def row(sample_id: str, picture: str | None = "p", text: str = "t", source: str = "captions") -> Checked:
    return Checked(sample_id, source, 0, 0, 0, picture, None, text, (), None, "")


def reasons(rows: list[Checked]) -> list[str | None]:
    return [checked.reason for checked in rows]


def picture(colour: str = "red", position: int = 20) -> Image.Image:
    """A shape on a gradient, 96 × 96 pixels."""
    ramp = np.tile(np.linspace(90, 200, 96, dtype=np.uint8), (96, 1))
    image = Image.fromarray(ramp).convert("RGB")
    ImageDraw.Draw(image).ellipse((position, 60, position + 12, 72), fill=colour)
    return image


def distance(a: Image.Image, b: Image.Image) -> int:
    return (int(perceptual_hash(a, PARAMS) or "", 16) ^ int(perceptual_hash(b, PARAMS) or "", 16)).bit_count()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_perceptual_hash_of_a_flat_picture_is_none(grey: int) -> None:
    assert perceptual_hash(Image.new("RGB", (96, 96), (grey, grey, grey)), PARAMS) is None


def test_perceptual_hash_tells_pictures_apart_that_differ_in_one_small_shape() -> None:
    assert distance(picture(), picture("blue")) > PARAMS.max_distance
    assert distance(picture(), picture(position=60)) > PARAMS.max_distance


def test_perceptual_hash_finds_a_picture_again_after_a_change_nobody_sees() -> None:
    noisy = np.asarray(picture()).copy()
    noisy[5, 5] += 1
    assert distance(picture(), Image.fromarray(noisy)) <= PARAMS.max_distance


@pytest.mark.parametrize("max_distance", [0, 1, 5, 12])
def test_representatives_equal_a_search_over_all_pairs(max_distance: int) -> None:
    rng = random.Random(max_distance)
    values = [rng.getrandbits(NUM_BITS) for _ in range(40)]
    for _ in range(160):  # near and not so near copies, of copies too
        flips = sum(1 << bit for bit in rng.sample(range(NUM_BITS), rng.randrange(9)))
        values.append(rng.choice(values) ^ flips)
    hashes = [(f"{index:04d}", f"{value:016x}") for index, value in enumerate(values)]
    expected: dict[str, str] = {}
    kept: list[tuple[int, str]] = []
    for name, text in hashes:
        near = [((int(text, 16) ^ value).bit_count(), other) for value, other in kept]
        best = min(near, default=(NUM_BITS + 1, ""))
        expected[name] = best[1] if best[0] <= max_distance else name
        if expected[name] == name:
            kept.append((int(text, 16), name))
    assert representatives(hashes, NUM_BITS, max_distance) == expected
    assert len(kept) < len(values)


def test_representatives_leave_pictures_without_a_hash_alone() -> None:
    assert representatives([("a", None), ("b", None), ("a", None)], NUM_BITS, 5) == {"a": "a", "b": "b"}


def test_reject_leaks_finds_exact_and_near_copies_of_evaluation_pictures() -> None:
    rows = [row("1", "exact"), row("2", "near"), row("3", "own"), row("4", None)]
    near = {"exact": "exact", "near": "exact", "own": "own"}
    checked = reject_leaks(rows, near, {"exact": "test/x.jpg"})
    assert reasons(checked) == ["leaked_from_evaluation", "leaked_from_evaluation", None, None]
    assert "test/x.jpg" in checked[0].detail


def test_repeated_ids_are_rejected_with_the_same_content_and_renamed_with_another() -> None:
    rows = [row("x"), row("x"), row("x", text="other"), row("x#2", text="third"), row("y")]
    checked = make_ids_unique(reject_duplicate_ids(rows))
    assert reasons(checked) == [None, "duplicate_id", None, None, None]
    assert [kept.sample_id for kept in checked if kept.reason is None] == ["x", "x#3", "x#2", "y"]
    assert checked[2].repairs == ("id_made_unique",)


def test_instruct_rows_may_share_a_picture_but_not_picture_and_text() -> None:
    rows = [row("1", "p", "t"), row("2", "p", "u"), row("3", "p", "t"), row("4", None, "t"), row("5", None, "t")]
    assert reasons(reject_duplicate_samples(rows)) == [None, None, "duplicate_sample", None, "duplicate_sample"]


def test_duplicate_pictures_are_rejected_within_the_named_sources_only() -> None:
    rows = [row("1", "a"), row("2", "a"), row("3", "b"), row("4", "c"), row("5", "a", source="instruct")]
    near = {"a": "a", "b": "a", "c": "c"}
    checked = reject_duplicate_pictures(rows, near, {"captions"})
    assert reasons(checked) == [None, "duplicate_picture", "near_duplicate_picture", None, None]


def test_rejected_rows_stand_in_nobodys_way() -> None:
    lost = row("1")._replace(reason="truncated")
    rows = [lost, row("1"), row("2", "q")]
    for check in (reject_duplicate_ids, reject_duplicate_samples, make_ids_unique):
        assert reasons(check(rows)) == ["truncated", None, None]

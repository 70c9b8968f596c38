import pytest

from components.curation.splits import split_of

GOLDEN = "tttvvttvvtttvttt"  # validation where the first byte of sha256("7:<key>") is below 128


def test_split_of_gives_about_the_asked_share_to_validation() -> None:
    splits = [split_of(str(key), seed=0, validation_fraction=0.1) for key in range(5000)]
    assert splits.count("validation") == pytest.approx(500, abs=4 * (5000 * 0.1 * 0.9) ** 0.5)


def test_split_of_moves_no_key_back_to_train_when_the_share_grows() -> None:
    small = {key for key in map(str, range(1000)) if split_of(key, 0, 0.1) == "validation"}
    large = {key for key in map(str, range(1000)) if split_of(key, 0, 0.2) == "validation"}
    assert small < large


def test_split_of_does_not_depend_on_the_machine_but_on_the_seed() -> None:
    assert "".join(split_of(str(key), 7, 0.5)[0] for key in range(16)) == GOLDEN
    assert "".join(split_of(str(key), 8, 0.5)[0] for key in range(16)) != GOLDEN

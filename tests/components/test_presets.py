"""Presets: values laid over a parameter file, and what they changed."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.params import ParamsError
from components.presets import (
    Change,
    find_preset,
    lay_over,
    missing_values,
    preset_values,
    read_preset,
)

VALUES = {
    "train": {"steps": 1, "loop": {"every": 2}},
    "sources": {"a": {"files": "x"}},
    "list": [1],
}
TREES = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, min_size=1, max_size=3),
    max_leaves=8,
)


def test_a_value_takes_the_place_of_another_and_is_told() -> None:
    values = copy.deepcopy(VALUES)
    changes = lay_over(values, {"train": {"loop": {"every": 5}}, "list": [2, 3]})
    assert values["train"] == {"steps": 1, "loop": {"every": 5}}
    assert changes == [Change("train.loop.every", 2, 5), Change("list", [1], [2, 3])]


def test_a_mapping_with_other_keys_is_replaced_as_a_whole() -> None:
    values = copy.deepcopy(VALUES)
    lay_over(values, {"sources": {"b": {"files": "y"}}})
    assert values["sources"] == {"b": {"files": "y"}}


def test_a_value_that_is_there_already_is_no_change() -> None:
    assert not lay_over(copy.deepcopy(VALUES), {"train": {"steps": 1}})


def test_a_key_that_the_parameter_file_lacks_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"train\.stepz"):
        lay_over(copy.deepcopy(VALUES), {"train": {"steps": 2, "stepz": 3}})


@given(st.dictionaries(st.sampled_from("abcd"), TREES, min_size=1))
def test_after_a_preset_nothing_of_it_is_missing(preset: dict[str, Any]) -> None:
    values: dict[str, Any] = dict.fromkeys("abcd", 0)
    changes = lay_over(values, copy.deepcopy(preset))
    assert not missing_values(values, preset)
    assert {change.place for change in changes} <= {
        value.place for value in preset_values(dict.fromkeys("abcd", 0), preset)
    }


def test_an_unknown_preset_is_named_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("a: 1\n")
    with pytest.raises(ParamsError, match="only large; did you mean large"):
        find_preset("larg", tmp_path)


def test_a_preset_that_extends_another_has_the_values_of_both(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("train: {steps: 7, loop: {every: 3}}\n")
    (tmp_path / "larger.yaml").write_text("extends: large\ntrain: {loop: {every: 9}}\n")
    assert read_preset("larger", tmp_path) == {"train": {"steps": 7, "loop": {"every": 9}}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: large\n", "preset large extends 'large'"),
        ("extends: 3\n", "preset large extends 3"),
        ("extends: ../other/large\n", "there is no preset '../other/large'"),
        ("baselines: [1]\n", "baselines of preset large is no mapping of methods"),
        ("baselines: {stf: null}\n", "baselines.stf of preset large is no mapping"),
    ],
)
def test_a_preset_that_is_none_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "large.yaml").write_text(text)
    with pytest.raises(ParamsError, match=said):
        read_preset("large", tmp_path)


def test_values_of_another_type_are_changes() -> None:
    values: dict[str, Any] = {"flag": True, "rate": 1, "same": 2}
    lay_over(values, {"flag": 1, "rate": 1.0, "same": 2})
    assert [type(value) for value in values.values()] == [int, float, int]

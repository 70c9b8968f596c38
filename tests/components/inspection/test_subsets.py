"""Which tokens are left: prefixes, groups, and what is not in a group."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.inspection.parts import AbsentError
from components.inspection.subsets import all_but, prefix_lengths, token_groups


@pytest.mark.parametrize(
    ("wanted", "num_tokens", "expected"),
    [((1, 2, 3, 4), 4, [1, 2, 3, 4]), ((4, 1, 1), 6, [1, 4, 6]), ((8, 16), 4, [4]), ((), 2, [2])],
)
def test_prefixes_end_with_all_tokens(
    wanted: tuple[int, ...], num_tokens: int, expected: list[int]
) -> None:
    assert prefix_lengths(wanted, num_tokens) == expected


@given(st.integers(1, 40), st.integers(1, 10))
def test_groups_are_neighbours_and_cover_everything_once(num_tokens: int, group_size: int) -> None:
    if num_tokens <= group_size:
        with pytest.raises(
            AbsentError, match=f"without a group of {group_size} nothing is left of {num_tokens}"
        ):
            token_groups(num_tokens, group_size)
        return
    groups = token_groups(num_tokens, group_size)
    assert [token for group in groups for token in group] == list(range(num_tokens))
    assert {len(group) for group in groups[:-1]} <= {group_size}
    for group in groups:
        assert sorted([*group, *all_but(group, num_tokens)]) == list(range(num_tokens))


def test_one_token_has_no_beginning() -> None:
    with pytest.raises(AbsentError, match="no shorter beginning"):
        prefix_lengths((1, 2), 1)

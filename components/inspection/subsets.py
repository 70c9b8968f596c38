"""Subsets of the stored summary tokens: the first few (Fig. 5), or all but some (Fig. 6)."""

from collections.abc import Sequence

from components.inspection.parts import AbsentError


def prefix_lengths(wanted: Sequence[int], num_summary_tokens: int) -> list[int]:
    """Return the numbers of first tokens to try: the `wanted` below the total, and the total.

    Raises AbsentError for a single token, which has no beginning.
    """
    if num_summary_tokens == 1:
        raise AbsentError("a single summary token has no shorter beginning")

    # All tokens come last, to compare the others with.
    fewer = sorted({length for length in wanted if length < num_summary_tokens})
    return [*fewer, num_summary_tokens]


def token_groups(num_summary_tokens: int, group_size: int) -> list[list[int]]:
    """Cut all tokens into groups of neighbours, the last of which may be smaller.

    Raises AbsentError if one group holds all tokens.
    """
    if num_summary_tokens <= group_size:
        raise AbsentError(
            f"without a group of {group_size} nothing is left of {num_summary_tokens} summary "
            f"token{'s' if num_summary_tokens != 1 else ''}"
        )

    tokens = list(range(num_summary_tokens))
    starts = range(0, num_summary_tokens, group_size)
    return [tokens[start : start + group_size] for start in starts]


def all_but(group: Sequence[int], num_summary_tokens: int) -> list[int]:
    """Return the tokens that are left, in their order."""
    return [token for token in range(num_summary_tokens) if token not in group]

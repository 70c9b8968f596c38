import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from components.answering.decoding import DecodingParams, choose, row_draws


def sampling(temperature: float, top_p: float, seed: int = 0) -> DecodingParams:
    return DecodingParams(max_new_tokens=5, temperature=temperature, top_p=top_p, seed=seed)


def warped(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """The probabilities that transformers draws from."""
    ids = torch.zeros(len(logits), 1, dtype=torch.long)
    scores = TopPLogitsWarper(top_p)(ids, TemperatureLogitsWarper(temperature)(ids, logits))
    return scores.softmax(-1)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(0.3, 0.9), (1.0, 1.0), (1.7, 0.5), (1.0, 1e-6)]
)
def test_tokens_are_drawn_with_the_probabilities_of_transformers(
    temperature: float, top_p: float
) -> None:
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    count = 20_000
    draws = (torch.arange(count, dtype=torch.float64) + 0.5) / count  # every part of 0 to 1 alike
    chosen = choose(logits.expand(count, -1), draws, sampling(temperature, top_p))
    shares = torch.bincount(chosen, minlength=40) / count
    torch.testing.assert_close(
        shares.double(), warped(logits, temperature, top_p)[0], rtol=0, atol=1.01 / count
    )


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.randn(6, 40)
    assert torch.equal(
        choose(logits, torch.rand(6).double(), sampling(0.0, 0.1)), logits.argmax(-1)
    )


@given(
    st.integers(0, 2**31), st.floats(0.05, 5), st.floats(0.01, 1), st.floats(0, 1, exclude_max=True)
)
def test_no_token_is_drawn_that_transformers_would_not_draw(
    seed: int, temperature: float, top_p: float, draw: float
) -> None:
    logits = 5 * torch.randn(
        1, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    token = choose(logits, torch.tensor([draw], dtype=torch.float64), sampling(temperature, top_p))
    rest = warped(logits, temperature, min(top_p + 1e-9, 1.0))
    assert rest[0, token] > 0


def test_random_numbers_follow_from_seed_and_key_alone() -> None:
    keys = [(f"picture {number // 3}", f"question {number % 3}") for number in range(600)]
    draws = row_draws(keys, sampling(1.0, 1.0))
    assert torch.equal(row_draws(keys[7:9], sampling(1.0, 1.0)), draws[7:9])
    assert len(np.unique(draws.numpy())) == draws.numel()
    assert not torch.equal(row_draws(keys, sampling(1.0, 1.0, seed=1)), draws)
    counts, _ = np.histogram(draws.numpy(), bins=20, range=(0, 1))
    assert chisquare(counts).pvalue > 1e-3
    assert not row_draws([("a", "bc")], sampling(1.0, 1.0)).equal(
        row_draws([("ab", "c")], sampling(1.0, 1.0))
    )

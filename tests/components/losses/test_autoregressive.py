import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.losses.autoregressive import IGNORE_INDEX, autoregressive_loss, autoregressive_loss_sum

BATCH, TOKENS, DIM, VOCAB = 3, 7, 4, 11


@pytest.fixture
def lm_head() -> nn.Linear:
    return nn.Linear(DIM, VOCAB, bias=False).double()


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(BATCH, TOKENS, DIM, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def labels() -> Tensor:
    labels = torch.randint(VOCAB, (BATCH, TOKENS))
    labels[torch.rand(BATCH, TOKENS) < 0.5] = IGNORE_INDEX
    labels[0] = IGNORE_INDEX
    labels[1, 0] = 3  # nothing predicts a first token
    return labels


def test_value_and_gradients_equal_cross_entropy_over_full_logits(
    hidden: Tensor, lm_head: nn.Linear, labels: Tensor
) -> None:
    logits = lm_head(hidden)[:, :-1]
    expected = functional.cross_entropy(logits.reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=IGNORE_INDEX)
    loss = autoregressive_loss(hidden, lm_head, labels)
    torch.testing.assert_close(loss, expected)
    leaves = [hidden, lm_head.weight]
    for ours, reference in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, reference)


def test_sums_of_parts_give_the_mean_of_the_whole(hidden: Tensor, lm_head: nn.Linear, labels: Tensor) -> None:
    parts = [autoregressive_loss_sum(hidden[row : row + 1], lm_head, labels[row : row + 1]) for row in range(BATCH)]
    mean = sum(loss for loss, _ in parts) / sum(num_tokens for _, num_tokens in parts)
    torch.testing.assert_close(mean, autoregressive_loss(hidden, lm_head, labels))


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient(hidden: Tensor, lm_head: nn.Linear) -> None:
    loss = autoregressive_loss(hidden, lm_head, torch.full((BATCH, TOKENS), IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_the_loss_of_half_precision_is_computed_in_float32(lm_head: nn.Linear, labels: Tensor) -> None:
    loss = autoregressive_loss(torch.randn(BATCH, TOKENS, DIM, dtype=torch.bfloat16), lm_head.bfloat16(), labels)
    assert loss.dtype == torch.float32

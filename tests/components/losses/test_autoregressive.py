import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.losses import autoregressive
from components.losses.autoregressive import IGNORE_INDEX, answer_loss_sum, autoregressive_loss

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


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_value_and_gradients_equal_cross_entropy_over_full_logits(
    hidden: Tensor,
    lm_head: nn.Linear,
    labels: Tensor,
    chunk_size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(autoregressive, "POSITIONS_PER_CHUNK", chunk_size)
    logits = lm_head(hidden)[:, :-1]
    expected = functional.cross_entropy(
        logits.reshape(-1, VOCAB), labels[:, 1:].reshape(-1), ignore_index=IGNORE_INDEX
    )
    loss = autoregressive_loss(hidden, lm_head, labels)
    torch.testing.assert_close(loss, expected)
    leaves = [hidden, lm_head.weight]
    for ours, reference in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(ours, reference)


def test_sums_of_parts_give_the_mean_of_the_whole(
    hidden: Tensor, lm_head: nn.Linear, labels: Tensor
) -> None:
    targets = labels[:, 1:]
    parts = [
        answer_loss_sum(hidden[row : row + 1, :-1], lm_head, targets[row : row + 1])
        for row in range(BATCH)
    ]
    mean = sum(parts) / (targets != IGNORE_INDEX).sum()
    torch.testing.assert_close(mean, autoregressive_loss(hidden, lm_head, labels))


def test_a_batch_without_labels_costs_nothing_and_has_a_gradient(
    hidden: Tensor, lm_head: nn.Linear
) -> None:
    loss = autoregressive_loss(hidden, lm_head, torch.full((BATCH, TOKENS), IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_the_loss_of_half_precision_is_computed_in_float32(
    lm_head: nn.Linear, labels: Tensor
) -> None:
    loss = autoregressive_loss(
        torch.randn(BATCH, TOKENS, DIM, dtype=torch.bfloat16), lm_head.bfloat16(), labels
    )
    assert loss.dtype == torch.float32


def test_a_frozen_head_gets_no_gradient(hidden: Tensor, lm_head: nn.Linear, labels: Tensor) -> None:
    loss = autoregressive_loss(hidden, lm_head.requires_grad_(False), labels)
    loss.backward()
    assert lm_head.weight.grad is None
    assert hidden.grad is not None


def test_no_tensor_of_all_logits_is_ever_made(
    lm_head: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoregressive, "POSITIONS_PER_CHUNK", 5)
    sizes = []
    lm_head.register_forward_hook(lambda _, __, logits: sizes.append(len(logits)))
    hidden = torch.randn(4, 10, DIM, dtype=torch.float64, requires_grad=True)
    autoregressive_loss(hidden, lm_head, torch.full((4, 10), 3)).backward()
    assert sizes == [5] * 7 + [1]

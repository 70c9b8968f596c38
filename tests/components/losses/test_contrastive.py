import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.losses.contrastive import contrastive_loss

BATCH, DIM = 6, 5


def embeddings(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(
        torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64), dim=1
    )


def naive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Eq. 3, one logarithm at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(images)):
        to_texts = torch.stack([torch.exp(scale * images[i] @ text) for text in texts])
        to_images = torch.stack([torch.exp(scale * image @ texts[i]) for image in images])
        total = (
            total
            - torch.log(to_texts[i] / to_texts.sum())
            - torch.log(to_images[i] / to_images.sum())
        )
    return total / (2 * len(images))


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_equal_embeddings_cost_the_logarithm_of_the_batch(scale: float) -> None:
    same = embeddings(0)[:1].expand(BATCH, DIM)
    assert contrastive_loss(same, same, torch.tensor(scale)).item() == pytest.approx(
        math.log(BATCH)
    )


def test_value_and_gradients_equal_the_naive_loop() -> None:
    inputs = [embeddings(0), embeddings(1), torch.tensor(14.3, dtype=torch.float64)]
    ours, naive = ([leaf.clone().requires_grad_() for leaf in inputs] for _ in range(2))
    loss, expected = contrastive_loss(*ours), naive_loss(*naive)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for leaf, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(leaf.grad, reference.grad)


def test_loss_does_not_change_when_pairs_change_places() -> None:
    images, texts, scale = embeddings(0), embeddings(1), torch.tensor(10.0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        contrastive_loss(images[order], texts[order], scale), contrastive_loss(images, texts, scale)
    )


def test_loss_is_symmetric_in_images_and_texts() -> None:
    images, texts, scale = embeddings(0), embeddings(1), torch.tensor(10.0)
    torch.testing.assert_close(
        contrastive_loss(images, texts, scale), contrastive_loss(texts, images, scale)
    )


def test_perfect_pairs_at_a_large_scale_cost_nothing() -> None:
    images = torch.eye(BATCH)
    assert contrastive_loss(images, images, torch.tensor(100.0)).item() < 1e-6


def test_hard_negatives_are_further_columns_for_pictures_and_zeros_are_none() -> None:
    images, texts = embeddings(0), embeddings(1)
    negatives, scale = embeddings(2), torch.tensor(14.3, dtype=torch.float64)
    leaves = [tensor.clone().requires_grad_() for tensor in (images, texts, negatives)]
    some = torch.cat([leaves[2][:2], torch.zeros_like(negatives[2:])])
    loss = contrastive_loss(leaves[0], leaves[1], scale, some)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(BATCH):
        to_texts = torch.stack(
            [torch.exp(scale * images[i] @ text) for text in [*texts, *negatives[:2]]]
        )
        to_images = torch.stack([torch.exp(scale * image @ texts[i]) for image in images])
        expected -= torch.log(to_texts[i] / to_texts.sum()) + torch.log(
            to_images[i] / to_images.sum()
        )
    torch.testing.assert_close(loss, expected / (2 * BATCH))
    loss.backward()
    gradient = leaves[2].grad
    assert gradient is not None
    assert gradient[:2].any(1).all()
    assert not gradient[2:].any()

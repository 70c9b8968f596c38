import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.losses.contrastive import contrastive_loss, max_similarity_loss
from tests.components.losses.pairs import pair_loss

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
    assert pair_loss(same, same, torch.tensor(scale)).item() == pytest.approx(math.log(BATCH))


def test_value_and_gradients_equal_the_naive_loop() -> None:
    inputs = [embeddings(0), embeddings(1), torch.tensor(14.3, dtype=torch.float64)]
    ours, naive = ([leaf.clone().requires_grad_() for leaf in inputs] for _ in range(2))
    loss, expected = pair_loss(*ours), naive_loss(*naive)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for leaf, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(leaf.grad, reference.grad)


def test_loss_does_not_change_when_pairs_change_places() -> None:
    images, texts, scale = embeddings(0), embeddings(1), torch.tensor(10.0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        pair_loss(images[order], texts[order], scale), pair_loss(images, texts, scale)
    )


def test_loss_is_symmetric_in_images_and_texts() -> None:
    images, texts, scale = embeddings(0), embeddings(1), torch.tensor(10.0)
    torch.testing.assert_close(pair_loss(images, texts, scale), pair_loss(texts, images, scale))


def test_perfect_pairs_at_a_large_scale_cost_nothing() -> None:
    images = torch.eye(BATCH)
    assert pair_loss(images, images, torch.tensor(100.0)).item() < 1e-6


def naive_loss_with_texts(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    negatives: Tensor,
    is_true: Tensor,
    is_true_negative: Tensor,
    similarity: Callable[[Tensor, Tensor], Tensor] = torch.dot,
) -> Tensor:
    """Each text and each picture by itself, one exponential at a time."""
    costs = []
    for i, t in product(range(texts.shape[0]), range(texts.shape[1])):
        if not texts[i, t].any():
            continue
        own = torch.exp(scale * similarity(images[i], texts[i, t]))
        among_pictures = own
        for j in range(len(images)):
            if j != i and not is_true[j, i, t]:
                among_pictures = among_pictures + torch.exp(
                    scale * similarity(images[j], texts[i, t])
                )
        among_texts = own
        for j, u in product(range(texts.shape[0]), range(texts.shape[1])):
            if j != i and texts[j, u].any() and not is_true[i, j, u]:
                among_texts = among_texts + torch.exp(scale * similarity(images[i], texts[j, u]))
        for j, n in product(range(negatives.shape[0]), range(negatives.shape[1])):
            if negatives[j, n].any() and not is_true_negative[i, j, n]:
                among_texts = among_texts + torch.exp(
                    scale * similarity(images[i], negatives[j, n])
                )
        costs.append(-torch.log(own / among_pictures) / 2 - torch.log(own / among_texts) / 2)
    return torch.stack(costs).mean()


def test_several_texts_and_negatives_equal_the_naive_loop() -> None:
    texts = torch.stack([embeddings(1), embeddings(2), embeddings(3)], dim=1)
    negatives = torch.stack([embeddings(4), embeddings(5)], dim=1)
    texts[4, 1], negatives[:2, 1] = 0, 0
    generator = torch.Generator().manual_seed(6)
    is_true = torch.rand(BATCH, BATCH, 3, generator=generator) < 0.3
    is_true_negative = torch.rand(BATCH, BATCH, 2, generator=generator) < 0.3
    scale = torch.tensor(14.3, dtype=torch.float64)

    inputs = (embeddings(0), texts, scale, negatives)
    ours, naive = ([leaf.clone().requires_grad_() for leaf in inputs] for _ in range(2))
    loss = contrastive_loss(*ours, is_true, is_true_negative)
    expected = naive_loss_with_texts(*naive, is_true, is_true_negative)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for leaf, reference in zip(ours, naive, strict=True):
        torch.testing.assert_close(leaf.grad, reference.grad)


def test_what_is_true_by_accident_has_no_gradient() -> None:
    images, texts = (embeddings(seed).requires_grad_() for seed in (0, 1))
    others = ~torch.eye(BATCH, dtype=torch.bool)[..., None]
    loss = contrastive_loss(
        images,
        texts[:, None],
        torch.tensor(14.3),
        torch.zeros(BATCH, 0, DIM, dtype=torch.float64),
        others,
        torch.zeros(BATCH, BATCH, 0, dtype=torch.bool),
    )
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None
    assert texts.grad is not None
    assert not images.grad.any()
    assert not texts.grad.any()


def several_tokens() -> tuple[list[Tensor], list[Tensor]]:
    """Three tokens of each picture and text, in float64: arguments with and without gradient."""

    def tokens(seed: int) -> Tensor:
        return torch.stack([embeddings(100 * seed + number) for number in range(3)], dim=1)

    texts = torch.stack([tokens(1), tokens(2)], dim=1)
    negatives = torch.stack([tokens(3), tokens(4)], dim=1)
    texts[4, 1], negatives[:2, 1] = 0, 0
    generator = torch.Generator().manual_seed(6)
    facts = [torch.rand(BATCH, BATCH, 2, generator=generator) < 0.3 for _ in range(2)]
    return [tokens(0), texts, torch.tensor(14.3, dtype=torch.float64), negatives], facts


def mean_of_largest(image: Tensor, text: Tensor) -> Tensor:
    """One token of the text after the other."""
    largest = [torch.stack([token @ other for other in image]).max() for token in text]
    return torch.stack(largest).mean()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_maxsim_loss_and_gradients_equal_the_naive_loop_in_double(
    dtype: torch.dtype, tolerance: float
) -> None:
    inputs, facts = several_tokens()
    ours = [leaf.clone().to(dtype).requires_grad_() for leaf in inputs]
    naive = [leaf.clone().requires_grad_() for leaf in inputs]
    loss = max_similarity_loss(*ours, *facts)
    expected = naive_loss_with_texts(*naive, *facts, mean_of_largest)
    loss.backward()
    expected.backward()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for leaf, reference in zip(ours, naive, strict=True):
        assert leaf.grad is not None
        assert reference.grad is not None
        difference = leaf.grad.double() - reference.grad
        assert difference.norm() / reference.grad.norm() < tolerance


def test_maxsim_loss_of_one_token_is_the_contrastive_loss() -> None:
    (images, texts, scale, negatives), facts = several_tokens()
    alone = max_similarity_loss(
        images[:, :1], texts[..., :1, :], scale, negatives[..., :1, :], *facts
    )
    by_mean = contrastive_loss(images[:, 0], texts[..., 0, :], scale, negatives[..., 0, :], *facts)
    torch.testing.assert_close(alone, by_mean)

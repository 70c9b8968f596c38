import pytest
import torch

from components.model.pooling import average_pool, pool_pictures
from components.model.segments import picture_segment


def test_four_tokens_are_the_means_of_the_quadrants() -> None:
    grid = torch.arange(36.0).reshape(1, 6, 6, 1).expand(1, 6, 6, 2)
    pooled = average_pool(grid.reshape(1, 36, 2), 4)
    quadrants = [
        grid[0, top : top + 3, left : left + 3].mean(dim=(0, 1))
        for top in (0, 3)
        for left in (0, 3)
    ]
    assert torch.allclose(pooled[0], torch.stack(quadrants))


def test_a_count_that_is_no_square_pools_runs_of_the_raster_order() -> None:
    tokens = torch.randn(2, 36, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(average_pool(tokens, 3), tokens.reshape(2, 3, 12, 3).mean(dim=2))


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 9, 16, 36])
def test_the_mean_over_all_tokens_survives_where_pools_are_equal(num_tokens: int) -> None:
    tokens = torch.randn(2, 36, 3, generator=torch.Generator().manual_seed(0))
    pooled = average_pool(tokens, num_tokens)
    assert pooled.shape == (2, num_tokens, 3)
    if num_tokens in (1, 2, 9, 36):
        assert torch.allclose(pooled.mean(dim=1), tokens.mean(dim=1), atol=1e-6)


def test_more_tokens_than_the_picture_has_are_refused() -> None:
    with pytest.raises(ValueError, match="36 image tokens into 64"):
        average_pool(torch.zeros(1, 36, 2), 64)


def test_pictures_of_different_lengths_pool_as_each_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(length, 3, generator=generator) for length in (7, 9, 4)]
    pooled = pool_pictures(picture_segment(pictures), 4)
    assert pooled.lengths == [4, 4, 4]
    for row, picture in zip(pooled.embeddings, pictures, strict=True):
        assert torch.equal(row[None], average_pool(picture[None], 4))

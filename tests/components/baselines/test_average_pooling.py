import torch

from components.baselines.average_pooling import AveragePooling
from components.methods.blocks.vision_tower import Reading, TowerShape
from components.methods.method_settings import NoSettings

SHAPE = TowerShape(side=6, channels=5, dim=7)


def reducer(num_tokens: int) -> AveragePooling:
    return AveragePooling(SHAPE, num_tokens, NoSettings(), torch.nn.Linear(5, 7))


def test_counts_are_those_of_square_cells() -> None:
    assert AveragePooling.counts(SHAPE, NoSettings()) == [1, 4, 9, 36]


@torch.no_grad()
def test_tokens_are_those_of_pytorchs_pooling() -> None:
    patches = torch.randn(2, 36, 5)
    pooling = reducer(4)
    grid = pooling.connect(patches).transpose(1, 2).unflatten(2, (6, 6))
    expected = torch.nn.functional.avg_pool2d(grid, 3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooling(Reading((patches,), None, None)), expected)


@torch.no_grad()
def test_all_tokens_are_the_connectors() -> None:
    patches = torch.randn(2, 36, 5)
    pooling = reducer(36)
    torch.testing.assert_close(pooling(Reading((patches,), None, None)), pooling.connect(patches))

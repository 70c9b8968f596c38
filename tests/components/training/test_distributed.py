"""Two gloo processes against one."""

from pathlib import Path

import torch
from torch import Tensor, nn

from components.training.distributed import (
    average_gradients,
    gather_objects,
    gather_with_gradient,
    rank,
    sum_over_workers,
    world_size,
)
from tests.components.losses.pairs import pair_loss
from tests.components.training.world import in_processes

NUM_PAIRS, DIM = 6, 5


def tower() -> tuple[nn.Parameter, nn.Parameter, Tensor, Tensor]:
    torch.manual_seed(0)
    weights = torch.randn(2, DIM, DIM, dtype=torch.float64)
    left, right = torch.randn(2, NUM_PAIRS, DIM, dtype=torch.float64)
    return nn.Parameter(weights[0]), nn.Parameter(weights[1]), left, right


def loss_of(left: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    left, right = (
        nn.functional.normalize(gather_with_gradient(side), dim=-1) for side in (left, right)
    )
    return pair_loss(left, right, scale)


def contrastive_worker(number: int, folder: Path) -> None:
    first, second, left, right = tower()
    scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    mine = slice(number * NUM_PAIRS // 2, (number + 1) * NUM_PAIRS // 2)
    loss = loss_of(left[mine] @ first, right[mine] @ second, scale)
    loss.backward()
    (average,) = average_gradients([first, second, scale, unused], loss.detach()[None])
    assert (rank(), world_size()) == (number, 2)
    assert sum_over_workers(torch.tensor(number + 1)) == 3
    assert gather_objects("ab"[number]) == ["a", "b"]
    torch.save([average, first.grad, second.grad, scale.grad, unused.grad], folder / f"{number}.pt")


def test_gathered_contrastive_gradient_equals_that_of_one_process(tmp_path: Path) -> None:
    in_processes(2, contrastive_worker, tmp_path)
    first, second, left, right = tower()
    scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
    loss = loss_of(left @ first, right @ second, scale)  # one process: nothing is gathered
    loss.backward()
    expected = [
        loss.detach(),
        first.grad,
        second.grad,
        scale.grad,
        torch.zeros(2, dtype=torch.float64),
    ]
    for number in range(2):
        for found, wanted in zip(torch.load(tmp_path / f"{number}.pt"), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)

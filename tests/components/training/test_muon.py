import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from components.training import muon
from components.training.muon import Muon, orthogonalised, stacks

SHAPES = [(4, 32), (32, 4), (4, 32), (16, 48), (48, 16), (8, 8), (1, 5)]  # wide, tall, square
NUM_STEPS = 11


def matrices(shapes: Sequence[tuple[int, int]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(step: int, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1 + step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def pytorchs(parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        parameters, 0.01, weight_decay, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )


def ours(parameters: list[nn.Parameter], weight_decay: float) -> Muon:
    optimizer = Muon(parameters, 0.9, weight_decay)
    optimizer.param_groups[0]["lr"] = 0.01
    return optimizer


def take_steps(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range
) -> None:
    """Move all; every third matrix has no gradient in every second step."""
    for step in steps:
        for place, gradient in enumerate(gradients(step)):
            is_left_out = step % 2 and place % 3 == 0
            parameters[place].grad = None if is_left_out else gradient
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_many_matrices_move_as_by_pytorch_one_by_one(weight_decay: float) -> None:
    expected, found = matrices(), matrices()
    take_steps(expected, pytorchs(expected, weight_decay), range(NUM_STEPS))
    take_steps(found, ours(found, weight_decay), range(NUM_STEPS))
    for one, other, start in zip(expected, found, matrices(), strict=True):
        moved = float((one - start).detach().norm())
        # both round to bfloat16, in another order
        assert float((one - other).detach().norm()) < 0.005 * moved


def test_pytorchs_saved_state_goes_on_here() -> None:
    expected, found = matrices(), matrices()
    theirs = pytorchs(expected, 0.0)
    take_steps(expected, theirs, range(3))
    optimizer = ours(found, 0.0)
    optimizer.load_state_dict(theirs.state_dict())
    for parameter, other in zip(found, expected, strict=True):
        assert torch.equal(
            optimizer.state[parameter]["momentum_buffer"], theirs.state[other]["momentum_buffer"]
        )


def test_a_stopped_run_goes_on_to_the_same_bytes() -> None:
    straight, stopped = matrices(), matrices()
    take_steps(straight, ours(straight, 0.1), range(NUM_STEPS))

    before = ours(stopped, 0.1)
    take_steps(stopped, before, range(4))
    after = Muon(stopped, 0.9, 0.1)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take_steps(stopped, after, range(4, NUM_STEPS))
    for one, other in zip(straight, stopped, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(8, 32), (16, 16), (16, 384)])
def test_an_update_is_close_to_orthogonal(shape: tuple[int, int]) -> None:
    rotated = torch.stack(
        [torch.randn(shape, generator=torch.manual_seed(seed)) for seed in (0, 1)]
    )
    for matrix, update in zip(rotated, orthogonalised(rotated).float(), strict=True):
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        strengths = u.T @ update @ v.T
        is_large = values > 0.1 * values.max()

        # the directions stay; of the lengths, the iteration promises no more than this
        diagonal = torch.diag(strengths.diagonal())
        assert float((strengths - diagonal).abs().max()) < 0.1
        assert strengths.diagonal()[is_large].min() > 0.6
        assert strengths.diagonal().max() < 1.3


def test_zeros_stay_zeros() -> None:
    assert torch.equal(orthogonalised(torch.zeros(2, 4, 8)), torch.zeros(2, 4, 8).bfloat16())


def test_a_matrix_and_one_lying_on_its_side_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = matrices()
    found = [[tuple(matrix.shape) for matrix in stack] for stack in stacks(parameters)]
    assert found == [[(4, 32), (32, 4), (4, 32)], [(16, 48), (48, 16)], [(8, 8)], [(1, 5)]]

    monkeypatch.setattr(muon, "MAX_STACK", 256)
    sizes = [len(stack) for stack in stacks(parameters)]
    assert sizes == [2, 1, 1, 1, 1, 1]


def test_a_matrix_without_gradient_stays_and_has_no_state() -> None:
    (matrix,) = matrices([(4, 8)])
    optimizer = ours([matrix], 0.5)
    optimizer.step()
    assert torch.equal(matrix, matrices([(4, 8)])[0])
    assert not optimizer.state


def test_a_closure_is_computed_with_gradients() -> None:
    (matrix,) = matrices([(4, 8)])

    def loss() -> float:
        value = matrix.square().sum()
        value.backward()
        return value.item()

    assert ours([matrix], 0.0).step(loss) == pytest.approx(
        float(matrices([(4, 8)])[0].square().sum())
    )
    assert matrix.grad is not None

"""Muon (Jordan et al., 2024) for many small matrices: those of one shape are moved together.

`torch.optim.Muon` takes one matrix after the other. An adapter has hundreds, so small that each
kernel costs more to start than to run; stacked they take a fifth of the time. The steps are those
of PyTorch's with `adjust_lr_fn="match_rms_adamw"`, and so are the names in the saved state.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, steepest at 0 (Jordan et al.)
NUM_ITERATIONS = 5
EPSILON = 1e-7  # keeps the norm of a matrix of zeros from 0
MAX_STACK = 2**24  # numbers; larger matrices keep a processor busy by themselves
MOMENTUM = "momentum_buffer"  # name in the saved state


class Muon(torch.optim.Optimizer):
    """Move each matrix by its orthogonalised Nesterov momentum.

    Updates are as long as AdamW's, so that one learning rate fits both (Liu et al., 2025).
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], momentum: float, weight_decay: float
    ) -> None:
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move all matrices with a gradient; those without stay, and so does their momentum."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        for group in self.param_groups:
            with_gradient = [matrix for matrix in group["params"] if matrix.grad is not None]
            for matrices in stacks(with_gradient):
                self._move(matrices, group)
        return loss

    def _move(self, matrices: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        directions = [self._direction(matrix, group["momentum"]) for matrix in matrices]
        updates = orthogonalised(torch.stack(directions))

        rate = group["lr"]
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1 - rate * group["weight_decay"])
            length = 0.2 * math.sqrt(max(matrix.shape))
            matrix.add_(update.mT if is_tall(matrix) else update, alpha=-rate * length)

    def _direction(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        """Add the gradient to the momentum; return Nesterov's direction, laid on its long side."""
        gradient, state = matrix.grad, self.state[matrix]
        assert gradient is not None  # chosen for having one
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(gradient)

        average = state[MOMENTUM].lerp_(gradient, 1 - momentum)
        direction = gradient.lerp(average, momentum)
        return direction.mT if is_tall(matrix) else direction


def is_tall(matrix: Tensor) -> bool:
    """Return whether a matrix has more rows than columns."""
    return matrix.shape[0] > matrix.shape[1]


def stacks(matrices: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield matrices that are alike once the tall ones are laid on their side.

    A stack has at most MAX_STACK numbers, or is one matrix.
    """
    alike: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for matrix in matrices:
        kind = (*sorted(matrix.shape), matrix.dtype, matrix.device)
        alike.setdefault(kind, []).append(matrix)

    for members in alike.values():
        size = max(1, MAX_STACK // members[0].numel())
        for start in range(0, len(members), size):
            yield members[start : start + size]


def orthogonalised(matrices: Tensor) -> Tensor:
    """Bring all singular values close to 1, by Newton and Schulz's iteration in bfloat16.

    (stack, rows, columns) -> the same, with no more rows than columns.
    """
    # no singular value above 1, where the iteration would diverge
    result = matrices.bfloat16()
    norms = torch.linalg.vector_norm(result, dim=(1, 2), keepdim=True)
    result = result / norms.clamp(min=EPSILON)

    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = result @ result.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.baddbmm(result, factor, result, beta=a)
    return result

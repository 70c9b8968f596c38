"""Pictures as the vision side of a model reads them: the output of its image processor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class PreparedPictures:
    """Tensors by their names in transformers' image processors, by rows of one picture or many.

    Rows are pictures, tiles or patches, as the family has it.
    """

    count: int
    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "PreparedPictures":
        """Move to a device; floating-point numbers also to a type, if one is given."""
        moved = {}
        for name, tensor in self.tensors.items():
            moved[name] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        return PreparedPictures(self.count, moved)


NO_PICTURES = PreparedPictures(0, {})


def merge(parts: Sequence[PreparedPictures]) -> PreparedPictures:
    """Merge parts into one, their pictures in order; missing tiles are filled up with zeros."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_PICTURES

    tensors = {}
    for name in parts[0].tensors:
        tensors[name] = cat_padded([part.tensors[name] for part in parts])
    return PreparedPictures(sum(map(len, parts)), tensors)


def cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate rows whose other sizes may differ: zeros behind the smaller ones."""
    shapes = [tensor.shape[1:] for tensor in tensors]
    sizes = list(map(max, zip(*shapes, strict=True)))
    padded = [pad(tensor, missing(tensor, sizes)) for tensor in tensors]
    return torch.cat(padded)


def missing(tensor: Tensor, sizes: Sequence[int]) -> list[int]:
    """Return the padding that brings all dimensions but the first to `sizes`.

    In the order of `torch.nn.functional.pad`: last dimension first, (before, behind) each.
    """
    padding = []
    for size, wanted in zip(reversed(tensor.shape[1:]), reversed(sizes), strict=True):
        padding += [0, wanted - size]
    return padding

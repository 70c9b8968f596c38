"""Pictures as the vision side of a model reads them: what its image processor gives, of one or of many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class PreparedPictures:
    """Tensors under the names of transformers' image processors; their rows are pictures, tiles or patches."""

    count: int
    tensors: dict[str, Tensor]

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "PreparedPictures":
        """The same pictures on another device; numbers that are no integers in another type, if one is given."""
        tensors = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.tensors.items()
        }
        return PreparedPictures(self.count, tensors)


NO_PICTURES = PreparedPictures(0, {})


def merge(parts: Sequence[PreparedPictures]) -> PreparedPictures:
    """All pictures of the parts, in their order; where one has fewer tiles than another, zeros fill it up."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_PICTURES
    tensors = {
        name: cat_padded([part.tensors[name] for part in parts]) for name in parts[0].tensors
    }
    return PreparedPictures(sum(map(len, parts)), tensors)


def cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate rows whose other sizes may differ: zeros behind the smaller ones."""
    sizes = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return torch.cat([pad(tensor, missing(tensor, sizes)) for tensor in tensors])


def missing(tensor: Tensor, sizes: Sequence[int]) -> list[int]:
    """How much `torch.nn.functional.pad` has to add behind each dimension but the first, the last one first."""
    added: list[Any] = [wanted - size for size, wanted in zip(tensor.shape[1:], sizes, strict=True)]
    return [number for size in reversed(added) for number in (0, size)]

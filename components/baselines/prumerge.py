"""PruMerge (Shang et al., 2024, arXiv 2403.15388): keep the patches the class token attends to.

Nothing has weights, so it also works untrained.
"""

from pydantic import Field
from torch import Tensor

from components.methods.blocks.patch_merging import PatchMerging, highest
from components.methods.blocks.token_reduction import reducing_method
from components.params import Params


class PruMergeParams(Params):
    """Settings of PruMerge."""

    num_neighbours: int = Field(ge=1)  # patches that a kept one takes in


class PruMerge(PatchMerging):
    """Keep patches by falling attention."""

    Settings = PruMergeParams

    def kept(self, attention: Tensor, count: int) -> Tensor:
        """Return the kept patches in the order of their tokens: (pictures, count)."""
        return highest(attention, count)


METHOD = reducing_method(PruMerge)

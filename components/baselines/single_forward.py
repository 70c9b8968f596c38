"""One pass instead of two (Fwd2Bot, arXiv 2503.21757, Table 7): the vision tower compresses.

The tower reads queries of its own behind the patches, under the compression adapter, and the
connector takes their states to where the language model reads image tokens. Texts and losses are
Fwd2Bot's.
"""

import torch
from torch import Tensor

from components.methods.blocks.vision_tower import llava_of
from components.methods.fwd2bot import DoubleForward, summary_queries
from components.methods.method import MethodModule
from components.methods.method_settings import (
    SINGLE_FORWARD,
    ChosenMethod,
    CompressorParams,
    NoSettings,
)
from components.model.adapters import COMPRESSION, PASSES, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.prepared import PreparedPictures
from components.model.summary_queries import SummaryQueries


class SingleForward(DoubleForward):
    """A LLaVA-1.5 whose vision tower has queries and an adapter."""

    chosen = ChosenMethod(name=SINGLE_FORWARD, tuning="trained", settings={})
    parts = ("queries", "vision_queries")
    gives_prefixes = False  # in the tower all queries see each other

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        queries: SummaryQueries,
        vision_queries: SummaryQueries,
        params: CompressorParams,
    ) -> None:
        super().__init__(backbone, adapters, queries, params)
        self.vision_queries = vision_queries.to(backbone.device)

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Return summary tokens (pictures, summary tokens, dim)."""
        with self.adapters.use(COMPRESSION):
            queries = self.vision_queries(len(pictures))
            return llava_of(self.backbone, SINGLE_FORWARD).compress_in_tower(pictures, queries)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of Fwd2Bot and the queries of the tower."""
        of_tower = {"vision_queries.weight": self.vision_queries.weight.detach()}
        return super().own_tensors() | of_tower


def build_single_forward(backbone: Backbone, params: CompressorParams, seed: int) -> SingleForward:
    """Attach untrained adapters and queries to a LLaVA-1.5, in place.

    Raises ValueError for another base model, and for adapters that are not one per pass.
    """
    tower = llava_of(backbone, SINGLE_FORWARD).vlm.model.vision_tower
    if params.adapters.sharing != "per_pass":
        raise ValueError(
            f"{SINGLE_FORWARD} needs adapters.sharing per_pass, not {params.adapters.sharing}"
        )
    adapters = attach_adapters(backbone, params.adapters, PASSES, seed, in_tower=True)

    # queries of the tower start from its positions, those of the language model from words
    positions: torch.Tensor = tower.embeddings.position_embedding.weight
    vision_queries = SummaryQueries(params.num_summary_tokens, positions, [], seed)
    queries = summary_queries(backbone, params, seed)
    return SingleForward(backbone, adapters, queries, vision_queries, params)


METHOD = MethodModule(
    SingleForward,
    NoSettings,
    num_stages=1,
    build=lambda backbone, params, _, seed: build_single_forward(backbone, params, seed),
)

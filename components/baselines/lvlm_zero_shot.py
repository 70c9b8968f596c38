"""The base model as an embedder, without training: E5-V's reading (arXiv 2407.12580, §3.1)."""

from components.methods.blocks.lvlm_embedder import LvlmEmbedder
from components.methods.method import MethodModule
from components.methods.method_settings import ChosenMethod, CompressorParams, NoSettings
from components.model.adapters import COMPRESSION, AdapterSwitch
from components.model.backbone import Backbone


class ZeroShot(LvlmEmbedder):
    """An embedder that is the base model as it comes."""


def build_zero_shot(
    backbone: Backbone, params: CompressorParams, chosen: ChosenMethod, seed: int
) -> ZeroShot:
    """Put an embedder around a base model, of which nothing is to be trained."""
    params = params.model_copy(update={"num_summary_tokens": 1, "logit_scale": "fixed"})
    chosen = chosen.model_copy(update={"tuning": "none"})
    return ZeroShot(backbone, AdapterSwitch(backbone.vlm, {COMPRESSION: None}), params, chosen)


METHOD = MethodModule(ZeroShot, NoSettings, 0, build_zero_shot)

"""LVLMs as embedders: a picture or a text is the hidden state that would say it in one word (see `one_word`).

As it comes: E5-V's reading without training (arXiv 2407.12580, §3.1). VLM2Vec (arXiv 2410.05160,
§3.2): an adapter, taught by the contrastive loss on pictures and captions at a fixed temperature.
E5-V (§3.2): taught by pairs of texts alone; that texts and pictures lie close together before the
word is said has to carry it over to pictures.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from components.methods.blocks.last_word import (
    image_in_one_word,
    num_tokens_around_text,
    text_in_one_word,
)
from components.methods.method import CONTRASTIVE, Method
from components.methods.method_settings import ChosenMethod, CompressorParams, NoSettings
from components.model.adapters import COMPRESSION, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.prepared import PreparedPictures
from components.params import Params


class EmbedderParams(Params):
    """What the papers fix."""

    temperature: float = Field(gt=0)  # cosine similarities are divided by it; it is not learned


class LvlmEmbedder(Method):
    """A base model, with an adapter or without, of which one hidden state is kept."""

    losses = (CONTRASTIVE,)
    parts = ()
    Settings: ClassVar[type[Params]] = EmbedderParams
    why_no_answers = (
        "this method keeps one vector of a picture, to compare it with; its language model has not learned to read it. "
        "Ask a compressor that was trained to answer, such as fwd2bot"
    )

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        params: CompressorParams,
        chosen: ChosenMethod,
    ) -> None:
        super().__init__(backbone, adapters, params)
        self.chosen = chosen
        self.to(backbone.device)

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """The one vector of each picture, L2-normalised, float32: (pictures, 1, dim)."""
        return image_in_one_word(self, COMPRESSION, self.backbone.encode_images(pictures))[:, None]

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The one vector of each text, L2-normalised, float32: (texts, 1, dim)."""
        return text_in_one_word(self, COMPRESSION, input_ids, attention_mask)[:, None]

    @property
    def num_tokens_around_text(self) -> int:
        """The chat that asks for one word."""
        return num_tokens_around_text(self.backbone)

    def own_tensors(self) -> dict[str, Tensor]:
        """None: all that is trained is the adapter."""
        return {}


class ZeroShot(LvlmEmbedder):
    """The base model as it comes."""

    Settings = NoSettings


class Vlm2Vec(LvlmEmbedder):
    """Taught by pictures and their captions."""


class E5V(LvlmEmbedder):
    """Taught by texts alone."""

    learns_from_texts = True


EMBEDDERS: dict[str, type[LvlmEmbedder]] = {
    "e5v": E5V,
    "lvlm_zero_shot": ZeroShot,
    "vlm2vec": Vlm2Vec,
}


def build_embedder(
    backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int
) -> LvlmEmbedder:
    """An untrained embedder on a base model, in place; `params` of the result have its one token and temperature."""
    kind = EMBEDDERS[method.name]
    settings = kind.Settings.model_validate(method.settings)
    changes = {"num_summary_tokens": 1, "logit_scale": "fixed"}
    if isinstance(settings, EmbedderParams):
        scale = 1 / settings.temperature
        changes |= {
            "initial_logit_scale": scale,
            "max_logit_scale": max(scale, params.max_logit_scale),
        }
    if method.tuning == "none" or kind is ZeroShot:
        method = method.model_copy(update={"tuning": "none"})
        adapters = AdapterSwitch(backbone.vlm, {COMPRESSION: None})
    else:
        adapters = attach_adapters(backbone, params.adapters, (COMPRESSION,), seed, in_tower=False)
    return kind(backbone, adapters, params.model_copy(update=changes), method)

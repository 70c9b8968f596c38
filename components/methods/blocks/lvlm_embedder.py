"""Embedders made of a language model: they keep the one hidden state that `last_word` reads."""

from functools import partial

from pydantic import Field
from torch import Tensor

from components.methods.blocks.last_word import (
    num_tokens_around_text,
    picture_last_words,
    text_last_words,
)
from components.methods.method import CONTRASTIVE, Method, MethodModule
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import COMPRESSION, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.prepared import PreparedPictures
from components.params import Params


class EmbedderParams(Params):
    """Settings of a trained embedder."""

    temperature: float = Field(gt=0)  # cosine similarities are divided by it; it is not learned


class LvlmEmbedder(Method):
    """A base model, with an adapter or without, that makes one vector of a picture or a text."""

    losses = (CONTRASTIVE,)
    parts = ()
    why_no_answers = (
        "this method keeps one vector of a picture, to compare it with; its language model has not "
        "learned to read it. Ask a compressor that was trained to answer, such as fwd2bot"
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
        """Return the vector of each picture, L2-normalised, float32: (pictures, 1, dim)."""
        return picture_last_words(self, COMPRESSION, self.backbone.encode_images(pictures))[:, None]

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vector of each text, L2-normalised, float32: (texts, 1, dim)."""
        return text_last_words(self, COMPRESSION, input_ids, attention_mask)[:, None]

    @property
    def num_tokens_around_text(self) -> int:
        """The length of the chat that asks for one word."""
        return num_tokens_around_text(self.backbone)

    def own_tensors(self) -> dict[str, Tensor]:
        """Return nothing: all that is trained is the adapter."""
        return {}


def embedding_method(model: type[LvlmEmbedder]) -> MethodModule:
    """Describe a method that is an embedder with a fixed temperature."""
    return MethodModule(model, EmbedderParams, 1, partial(build_embedder, model))


def build_embedder(
    model: type[LvlmEmbedder],
    backbone: Backbone,
    params: CompressorParams,
    chosen: ChosenMethod,
    seed: int,
) -> LvlmEmbedder:
    """Build an untrained embedder on a base model, in place, with its one token and temperature."""
    # one vector a picture, compared at a fixed temperature, whatever the params say
    scale = 1 / EmbedderParams.model_validate(chosen.settings).temperature
    changes = {
        "num_summary_tokens": 1,
        "logit_scale": "fixed",
        "initial_logit_scale": scale,
        "max_logit_scale": max(scale, params.max_logit_scale),
    }

    if chosen.tuning == "none":
        adapters = AdapterSwitch(backbone.vlm, {COMPRESSION: None})
    else:
        adapters = attach_adapters(backbone, params.adapters, (COMPRESSION,), seed, in_tower=False)
    return model(backbone, adapters, params.model_copy(update=changes), chosen)

"""FastV (arXiv 2403.06764, §4): the language model reads all image tokens, but most of them in its first layers only.

After `layer` layers, what the last token of the prompt attends to ranks the image tokens of its
row; the best stay for the layers above, with all text and at their own positions. Nothing is
trained. All rows drop the same number of tokens, so they stay aligned; the cache of the layers
above is shorter than that of the layers below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from components.methods.blocks.token_reduction import Reduced, Reducer
from components.methods.blocks.vision_tower import Reading, TowerShape, encoding_flops, llava_of
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import GENERATION, AdapterSwitch
from components.model.backbone import Backbone
from components.model.generation import decode, left_pad
from components.model.last_layer import ATTENTIONS, LAYERS, rotate, take
from components.model.segments import text_segment
from components.params import Params


class FastVParams(Params):
    """Where image tokens are dropped."""

    layer: int = Field(ge=1)  # K: so many layers of the language model read all of them


class AllTokens(Reducer):
    """What the connector makes of the patches; `num_tokens` says how many of them get past the first layers."""

    Settings = FastVParams
    uses_connector = True

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Any."""
        return range(1, shape.side**2 + 1)

    def forward(self, reading: Reading) -> Tensor:
        """-> (pictures, patches, dim)."""
        return self.connect(reading.patches[0])


class FastV(Reduced):
    """A LLaVA that answers as it came, with less work above its first layers."""

    reads_questions = True
    why_not_stored = (
        "FastV drops image tokens inside the language model, by the question: before it there are all of them; ask it "
        "with the pictures at hand, as `evaluate` does"
    )

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        reducer: Reducer,
        params: CompressorParams,
        chosen: ChosenMethod,
    ) -> None:
        super().__init__(backbone, adapters, reducer, params, chosen)
        self.layer: int = chosen.settings["layer"]
        check_layers(backbone, self.layer)

    @property
    def num_placeholders(self) -> int:
        """All patches."""
        return self.reducer.shape.side**2

    @torch.inference_mode()
    def answer(
        self, encoded: Tensor | None, input_ids: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """As any method's, with `encoded` (prompts, patches, dim); prompts without a picture are read as they are."""
        if encoded is None:
            return super().answer(encoded, input_ids, max_new_tokens)
        self.check_ready()
        ids, mask = left_pad(input_ids, self.backbone.device)
        chats = text_segment(self.backbone.embed_chat(ids, encoded), mask)
        reader = DroppingReader(
            self.backbone.language_model,
            self.layer,
            ids == self.backbone.image_token_id,
            self.num_summary_tokens,
        )
        with self.adapters.use(GENERATION):
            return decode(self.backbone, chats, max_new_tokens, reader)

    def question_flops(
        self, language_model: int, num_question_tokens: float, num_generated: float
    ) -> float:
        """N_v V, then in K of L layers N / L (V + Q + G) and in the others N / L (kept + Q + G)."""
        num_layers, text = (
            len(self.backbone.language_model.layers),
            num_question_tokens + num_generated,
        )
        below = self.layer * (self.num_placeholders + text)
        above = (num_layers - self.layer) * (self.num_summary_tokens + text)
        return (
            encoding_flops(llava_of(self.backbone, "fastv"))
            + 2 * language_model * (below + above) / num_layers
        )


class DroppingReader:
    """The language model for one batch of chats: the first call reads the prompts, each later one a token more."""

    def __init__(self, language_model: Any, layer: int, is_image: Tensor, num_kept: int) -> None:
        self.language_model = language_model
        self.ranking = language_model.layers[layer - 1]
        self.below, self.above = language_model.layers[: layer - 1], language_model.layers[layer:]
        self.is_image = is_image  # (rows, tokens), bool; the same number in each row
        self.num_kept = num_kept
        # tokens of each row that the layers above do not get; None before the prompts are read
        self.num_dropped: int | None = None

    def __call__(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: DynamicCache,
        **_: Any,
    ) -> BaseModelOutput:
        """As transformers' models are called, with a mask (rows, tokens so far) and padding on the left."""
        before = self.read(self.below, inputs_embeds, attention_mask, position_ids, past_key_values)
        hidden = self.read([self.ranking], before, attention_mask, position_ids, past_key_values)
        if self.num_dropped is None:
            attended = self.attention_of_last(before, attention_mask, position_ids, past_key_values)
            places = kept_places(attended, self.is_image, self.num_kept)
            hidden, position_ids = take(hidden, places), position_ids.gather(1, places)
            self.num_dropped = self.is_image.shape[1] - places.shape[1]
        # The filler, on the left, is kept: without the dropped tokens there are fewer ones behind.
        mask = attention_mask[:, : attention_mask.shape[1] - self.num_dropped]
        hidden = self.read(self.above, hidden, mask, position_ids, past_key_values)
        return BaseModelOutput(last_hidden_state=self.language_model.norm(hidden))

    def read(
        self, layers: Any, hidden: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Some layers over the newest tokens (rows, new, dim); `mask` (rows, all that these layers have seen)."""
        rotations = self.language_model.rotary_emb(hidden, position_ids=positions)
        attends = causal_scores(mask, hidden)
        for layer in layers:
            hidden = layer(
                hidden,
                attention_mask=attends,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotations,
            )
        return hidden

    def attention_of_last(
        self, before: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        """How the last token attends in the ranking layer, which has read `before`; mean of heads: (rows, tokens)."""
        layer, attention = self.ranking, self.ranking.self_attn
        rotations = self.language_model.rotary_emb(before[:, -1:], position_ids=positions[:, -1:])
        query = attention.q_proj(layer.input_layernorm(before[:, -1:]))
        query = rotate(query.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2), *rotations)
        keys = cache.layers[attention.layer_idx].keys
        assert keys is not None
        keys = keys.repeat_interleave(attention.num_key_value_groups, dim=1)
        scores = (query @ keys.transpose(2, 3)).float() * attention.scaling
        return scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1).mean(1)[:, 0]


def kept_places(attended: Tensor, is_image: Tensor, num_kept: int) -> Tensor:
    """All text, and the `num_kept` image tokens with most attention (rows, tokens): their places in order (rows, …)."""
    rows = len(is_image)
    images = is_image.nonzero()[:, 1].view(rows, -1)
    best = attended.gather(1, images).topk(num_kept, dim=1).indices
    return (~is_image).scatter(1, images.gather(1, best), True).nonzero()[:, 1].view(rows, -1)


def causal_scores(mask: Tensor, hidden: Tensor) -> Tensor:
    """What is added to the scores of the newest tokens (rows, new, dim): 0, or very little where one does not attend.

    `mask` (rows, all) is 1 where there is a token -> (rows, 1, new, all).
    """
    total, new = mask.shape[1], hidden.shape[1]
    places = torch.arange(total, device=mask.device)
    attends = (places <= places[total - new :, None]) & mask.bool()[:, None, None]
    return torch.zeros_like(attends, dtype=hidden.dtype).masked_fill(
        ~attends, torch.finfo(hidden.dtype).min
    )


def check_layers(backbone: Backbone, layer: int) -> None:
    """Raises ValueError when a language model cannot be read layer by layer, or has too few layers."""
    layers, attention = (
        backbone.language_model.layers,
        backbone.language_model.config._attn_implementation,
    )
    if not isinstance(layers[0], LAYERS) or attention not in ATTENTIONS:
        raise ValueError(
            f"fastv reads Llama, Mistral or Qwen2 layer by layer, under sdpa or eager, not {type(layers[0]).__name__} "
            f"under {attention}; set train.backbone.attention to sdpa, or use another base model"
        )
    if layer >= len(layers):
        raise ValueError(
            f"train.method.fastv.layer: {layer} of {len(layers)} layers leaves none; take 1 to {len(layers) - 1}"
        )

"""FastV (arXiv 2403.06764, §4): most image tokens are read in the first layers only.

After `layer` layers of the language model, the attention of the prompt's last token ranks the image
tokens of its row; the best stay for the layers above, with all text and at their own positions.
Nothing is trained. All rows drop the same number of tokens, so they stay aligned; the cache of the
layers above is shorter than that of the layers below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from components.methods.blocks.token_reduction import Reduced, Reducer, reducing_method
from components.methods.blocks.vision_tower import Reading, TowerShape, encoding_flops, llava_of
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import GENERATION, AdapterSwitch
from components.model.backbone import Backbone
from components.model.generation import decode, left_pad
from components.model.last_layer import ATTENTIONS, LAYERS, rotate, take
from components.model.segments import text_segment
from components.params import Params


class FastVParams(Params):
    """Settings of FastV."""

    layer: int = Field(ge=1)  # K: so many layers of the language model read all image tokens


class AllTokens(Reducer):
    """Keep all tokens of the connector; `num_tokens` of them get past the first layers."""

    Settings = FastVParams
    uses_connector = True

    @staticmethod
    def counts(shape: TowerShape, settings: Any) -> Sequence[int]:
        """Return all numbers."""
        return range(1, shape.side**2 + 1)

    def forward(self, reading: Reading) -> Tensor:
        """Return tokens, (pictures, patches, dim)."""
        return self.connect(reading.patches[0])


class FastV(Reduced):
    """A LLaVA that answers as it came, with less work above its first layers."""

    reads_questions = True
    why_not_stored = (
        "FastV drops image tokens inside the language model, by the question: before it there are "
        "all of them; ask it with the pictures at hand, as `evaluate` does"
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
        """The number of patches."""
        return self.reducer.shape.side**2

    @torch.inference_mode()
    def answer(
        self, encoded: Tensor | None, input_ids: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """Answer as any method does, with `encoded` (prompts, patches, dim).

        Prompts without a picture are read as they are.
        """
        if encoded is None:
            return super().answer(encoded, input_ids, max_new_tokens)
        self.check_ready()

        # all patches take part in the first layers, whatever the question
        ids, mask = left_pad(input_ids, self.backbone.device)
        chats = text_segment(self.backbone.embed_chat(ids, encoded), mask)
        is_image = ids == self.backbone.image_token_id

        language_model = self.backbone.language_model
        reader = DroppingReader(language_model, self.layer, is_image, self.num_summary_tokens)
        with self.adapters.use(GENERATION):
            return decode(self.backbone, chats, max_new_tokens, reader)

    def question_flops(
        self, language_model: int, num_question_tokens: float, num_generated: float
    ) -> float:
        """Return N_v V + N / L (K (V + Q + G) + (L - K) (kept + Q + G)) of L layers, K below."""
        num_layers = len(self.backbone.language_model.layers)
        text = num_question_tokens + num_generated
        below = self.layer * (self.num_placeholders + text)
        above = (num_layers - self.layer) * (self.num_summary_tokens + text)
        encoding = encoding_flops(llava_of(self.backbone, "fastv"))
        return encoding + 2 * language_model * (below + above) / num_layers


class DroppingReader:
    """The language model for one batch of chats.

    The first call reads the prompts, each later one a token more.
    """

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
        """Read new tokens, called as transformers' models are; padding is on the left.

        `attention_mask` is (rows, tokens so far).
        """
        before = self.read(self.below, inputs_embeds, attention_mask, position_ids, past_key_values)
        hidden = self.read([self.ranking], before, attention_mask, position_ids, past_key_values)

        # the prompts decide which places the layers above get to read
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
        """Run layers over the newest tokens (rows, new, dim).

        `mask` is (rows, tokens that these layers have seen).
        """
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
        """Return the last token's attention in the ranking layer, which has read `before`.

        It is the mean over heads, (rows, tokens).
        """
        # sdpa keeps no weights: compute them again, for the last query alone
        layer, attention = self.ranking, self.ranking.self_attn
        rotations = self.language_model.rotary_emb(before[:, -1:], position_ids=positions[:, -1:])
        query = attention.q_proj(layer.input_layernorm(before[:, -1:]))
        query = rotate(query.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2), *rotations)

        # the layer has left the keys of all tokens in the cache
        keys = cache.layers[attention.layer_idx].keys
        assert keys is not None
        keys = keys.repeat_interleave(attention.num_key_value_groups, dim=1)
        scores = (query @ keys.transpose(2, 3)).float() * attention.scaling
        return scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1).mean(1)[:, 0]


def kept_places(attended: Tensor, is_image: Tensor, num_kept: int) -> Tensor:
    """Return the places of all text and of the `num_kept` image tokens with most attention.

    Both arguments are (rows, tokens), the places (rows, kept) in order.
    """
    # rows have equally many image tokens, so that places are a rectangle
    rows = len(is_image)
    images = is_image.nonzero()[:, 1].view(rows, -1)
    best = attended.gather(1, images).topk(num_kept, dim=1).indices
    return (~is_image).scatter(1, images.gather(1, best), True).nonzero()[:, 1].view(rows, -1)


def causal_scores(mask: Tensor, hidden: Tensor) -> Tensor:
    """Return what is added to the scores of the newest tokens (rows, new, dim).

    It is 0, or very little where a token does not attend: (rows, 1, new, all). `mask` (rows, all)
    is 1 where there is a token.
    """
    total, new = mask.shape[1], hidden.shape[1]
    places = torch.arange(total, device=mask.device)
    attends = (places <= places[total - new :, None]) & mask.bool()[:, None, None]
    lowest = torch.finfo(hidden.dtype).min
    return torch.zeros_like(attends, dtype=hidden.dtype).masked_fill(~attends, lowest)


def check_layers(backbone: Backbone, layer: int) -> None:
    """Raise ValueError when a language model cannot be read by layers, or has too few of them."""
    layers = backbone.language_model.layers
    attention = backbone.language_model.config._attn_implementation
    if not isinstance(layers[0], LAYERS) or attention not in ATTENTIONS:
        raise ValueError(
            "fastv reads Llama, Mistral or Qwen2 layer by layer, under sdpa or eager, not "
            f"{type(layers[0]).__name__} under {attention}; set train.backbone.attention to sdpa, "
            "or use another base model"
        )
    if layer >= len(layers):
        raise ValueError(
            f"components/baselines/fastv.yaml: layer: {layer} of {len(layers)} layers leaves none; "
            f"take 1 to {len(layers) - 1}"
        )


METHOD = reducing_method(AllTokens, FastV, num_stages=0)

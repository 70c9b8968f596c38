"""Fwd2Bot: the language model compresses a picture in one pass and reads the result in the next (Eq. 1 and 2).

Both passes share all weights but the adapters. The generation pass gets summary tokens where image tokens stood;
nothing of the picture reaches it otherwise, and its gradient flows through them into the compression pass.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from components.model.adapters import COMPRESSION, GENERATION, AdapterParams, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.chat import encode_text
from components.model.families.llava import LlavaBackbone
from components.model.last_layer import hidden_states_at
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, join, text_segment
from components.model.summary_queries import SummaryQueries
from components.params import Params


class CompressorParams(Params):
    """What training adds to a base model."""

    num_summary_tokens: int = Field(ge=1)  # k', vectors stored per picture
    prompt: str  # read between the picture and the summary queries; may be empty
    prompt_embeddings: Literal["frozen", "learned"]  # those of the words, or learned ones that start there
    initial_queries: str  # words whose embeddings the summary queries start from; empty: random ones
    summary_scale: float = Field(gt=0)  # factor of the summary tokens; 1 leaves them as the language model's norm does
    passes: Literal["double", "single"]  # who compresses: the language model, or the vision tower (Table 7)
    attention: Literal["causal", "bidirectional"]  # of the compression pass (Table 12)
    connector: Literal["frozen", "trained"]  # between vision tower and language model
    logit_scale: Literal["learned", "fixed"]
    initial_logit_scale: float = Field(gt=0)  # multiplier of the cosine similarities, 1 / temperature
    max_logit_scale: float = Field(gt=0)
    adapters: AdapterParams


class DoubleForward(nn.Module):
    """A frozen backbone and all that is trained: two adapters, the summary queries, the logit scale."""

    prompt_ids: Tensor
    bos_ids: Tensor

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        queries: SummaryQueries,
        vision_queries: SummaryQueries | None,
        params: CompressorParams,
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.adapters = adapters
        self.queries = queries
        self.vision_queries = vision_queries  # of the single pass
        self.log_logit_scale = nn.Parameter(
            torch.tensor(math.log(params.initial_logit_scale)), requires_grad=params.logit_scale == "learned"
        )
        prompt_ids = encode_text(backbone.tokenizer, params.prompt)
        self.register_buffer("prompt_ids", torch.tensor(prompt_ids, dtype=torch.long), persistent=False)
        bos = backbone.tokenizer.bos_token_id  # not every tokenizer has one
        self.register_buffer("bos_ids", torch.tensor([] if bos is None else [bos], dtype=torch.long), persistent=False)
        self.prompt_embeddings = self._learned_prompt() if params.prompt_embeddings == "learned" else None
        if params.connector == "trained":
            backbone.train_connector()
        self.to(backbone.device)

    @property
    def num_summary_tokens(self) -> int:
        return len(self.queries.weight)

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of the cosine similarities, a scalar with gradient."""
        return self.log_logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the multiplier at or below its maximum; to be called after every optimizer step, as in CLIP."""
        self.log_logit_scale.clamp_(max=math.log(self.params.max_logit_scale))

    def _learned_prompt(self) -> nn.Parameter:
        if not len(self.prompt_ids):
            raise ValueError("prompt_embeddings: learned ones need a prompt to start from; `prompt` has no words")
        return nn.Parameter(self.backbone.embed(self.prompt_ids.to(self.backbone.device)).detach().float())

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Preprocessed pictures -> summary tokens (pictures, summary tokens, dim)."""
        if self.vision_queries is None:
            return self.compress_images(self.backbone.encode_images(pictures))
        assert isinstance(self.backbone, LlavaBackbone)
        with self.adapters.use(COMPRESSION):
            return self.backbone.compress_in_tower(pictures, self.vision_queries(len(pictures)))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Drop the other queries, for good. Raises ValueError when the summary tokens of the first depend on them."""
        is_prefix = self.params.attention == "causal" and self.params.passes == "double"
        if num_summary_tokens < self.num_summary_tokens and not is_prefix:
            raise ValueError(
                "of these summary tokens none can be left out, since each depends on all: only a causal pass of the "
                "language model gives prefixes"
            )
        for queries in (self.queries, self.vision_queries):
            if queries is not None:
                queries.keep_first(num_summary_tokens)

    def compress_images(self, pictures: Segment) -> Tensor:
        """The compression pass over what is read of pictures -> (pictures, summary tokens, dim)."""
        return self.compression_pass(self.backbone.framed(pictures))

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Captions, ids without BOS and padded on either side (batch, tokens) -> (batch, summary tokens, dim)."""
        return self.compression_pass([text_segment(self.backbone.embed(input_ids), attention_mask)])

    def compression_pass(self, content: Sequence[Segment]) -> Tensor:
        """Read [BOS; content; prompt; queries]; keep the normed last hidden states of the queries (Eq. 1).

        They are scaled to about the length of the image embeddings, which the second pass was trained to read there.
        Padding in the content is masked and takes no position, so it has no effect.
        """
        rows = content[0].num_rows
        prompt = self.backbone.embed(self.prompt_ids)
        if self.prompt_embeddings is not None:
            prompt = self.prompt_embeddings.to(prompt.dtype)
        queries = self.queries(rows).to(prompt.dtype)
        end = [text_segment(prompt.expand(rows, -1, -1)), text_segment(queries)]
        inputs = join([self.bos(rows), *content, *end])
        return self.params.summary_scale * self.read_to_compress(inputs, last_places(queries, inputs.mask))

    def bos(self, rows: int) -> Segment:
        """The first token of every row; none if the model has no such token."""
        return text_segment(self.backbone.embed(self.bos_ids).expand(rows, -1, -1))

    def read_to_compress(self, inputs: Segment, places: Tensor) -> Tensor:
        """The compression adapter's hidden states of rows at `places` (rows, kept): (rows, kept, dim)."""
        mask = inputs.mask
        if self.params.attention == "bidirectional":
            mask = mask[:, None, None].bool().expand(-1, 1, mask.shape[1], -1)  # every token sees all that are there
        with self.adapters.use(COMPRESSION):
            return self.read(inputs, mask, places)

    def masked_hidden(self, pictures: Segment, input_ids: Tensor, attention_mask: Tensor, is_hidden: Tensor) -> Tensor:
        """Read [BOS; picture; caption] as the compression pass does, without some of the words.

        A hidden word is the mean of all embeddings. Returns the hidden states that predict the caption, (batch, caption
        tokens, dim): those of the positions before its tokens. Captions are ids and a mask, (batch, caption tokens).
        """
        hidden_word = self.backbone.embedding_table.mean(0)
        caption = torch.where(is_hidden[..., None], hidden_word, self.backbone.embed(input_ids))
        content = [*self.backbone.framed(pictures), text_segment(caption, attention_mask)]
        inputs = join([self.bos(len(caption)), *content])
        return self.read_to_compress(inputs, last_places(caption, inputs.mask) - 1)

    def generation_hidden(
        self,
        visual_tokens: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Read chats with visual tokens at the image placeholders (Eq. 2); (batch, tokens, dim), before the LM head.

        visual_tokens: (…, dim) in the order of the placeholders; None if there are none. The rest: (batch, tokens), any
        padding.
        Packed rows come with a mask (batch, 1, tokens, tokens), True = attends, and with their positions. With
        `places` (batch, kept) only the hidden states there come back, (batch, kept, dim), for less work.
        """
        chat = text_segment(
            self.backbone.embed_chat(input_ids, visual_tokens), attention_mask if attention_mask.ndim == 2 else None
        )
        if positions is not None:
            chat = chat._replace(positions=positions[None])
        with self.adapters.use(GENERATION):
            return self.read(chat, attention_mask, places)

    def read(self, inputs: Segment, mask: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """One pass of the language model with the active adapter: hidden states, (rows, tokens, dim) or at `places`.

        `mask` in place of the segment's: (rows, tokens), or (rows, 1, tokens, tokens), True = attends.
        """
        language_model = self.backbone.language_model
        arguments = self.backbone.arguments(inputs, mask) | {"use_cache": False}
        if places is None:
            return language_model(**arguments).last_hidden_state
        return hidden_states_at(language_model, places, **arguments)

    def embedding(self, summary_tokens: Tensor) -> Tensor:
        """One vector to search with: the mean of the summary tokens, L2-normalised, float32; (batch, dim)."""
        return F.normalize(summary_tokens.to(torch.promote_types(summary_tokens.dtype, torch.float32)).mean(1), dim=-1)


def build_double_forward(backbone: Backbone, params: CompressorParams, seed: int) -> DoubleForward:
    """Attach untrained adapters and queries to a backbone, in place."""
    is_single = params.passes == "single"
    if is_single and not isinstance(backbone, LlavaBackbone):
        raise ValueError(f"passes: single compresses in the tower of a LLaVA-1.5, and {backbone.source.name} is none")
    if is_single and params.adapters.sharing != "per_pass":
        raise ValueError(f"passes: single needs adapters.sharing per_pass, not {params.adapters.sharing}")
    adapters = attach_adapters(backbone, params.adapters, seed, in_tower=is_single)
    words = encode_text(backbone.tokenizer, params.initial_queries)
    queries = SummaryQueries(params.num_summary_tokens, backbone.embedding_table, words, seed)
    vision_queries = None
    if is_single:
        positions = backbone.vlm.model.vision_tower.embeddings.position_embedding.weight
        vision_queries = SummaryQueries(params.num_summary_tokens, positions, [], seed)
    return DoubleForward(backbone, adapters, queries, vision_queries, params)


def enable_gradient_checkpointing(model: DoubleForward) -> None:
    """Recompute the decoder layers in the backward pass, each with the adapter it ran with."""
    language_model = model.backbone.language_model
    language_model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": model.adapters.context_fn}
    )
    # The backward pass starts with the last layer: to recompute it frees nothing. Nor may it be (`last_layer`).
    last: Any = language_model.layers[-1]
    last.gradient_checkpointing = False


def last_places(queries: Tensor, attention_mask: Tensor) -> Tensor:
    """The places of (batch, summary tokens, dim) at the end of sequences: (batch, summary tokens)."""
    num_tokens = attention_mask.shape[1]
    return torch.arange(num_tokens - queries.shape[1], num_tokens, device=queries.device).expand(len(queries), -1)

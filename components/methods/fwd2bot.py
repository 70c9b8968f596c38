"""Fwd2Bot: the language model compresses a picture in one pass and reads it in the next (Eq. 1, 2).

Both passes share all weights but the adapters. The generation pass gets summary tokens where image
tokens stood; nothing of the picture reaches it otherwise, and its gradient flows through them into
the compression pass.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.methods.method import AUTOREGRESSIVE, CONTRASTIVE, Method, MethodModule
from components.methods.method_settings import (
    FWD2BOT,
    ChosenMethod,
    CompressorParams,
    NoSettings,
)
from components.model.adapters import COMPRESSION, PASSES, AdapterSwitch, attach_adapters
from components.model.backbone import Backbone
from components.model.chat import encode_text
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, join, text_segment
from components.model.summary_queries import SummaryQueries


class DoubleForward(Method):
    """A frozen backbone, and what is trained: two adapters, summary queries, logit scale."""

    chosen = ChosenMethod(name=FWD2BOT, tuning="trained", settings={})
    losses = (AUTOREGRESSIVE, CONTRASTIVE)
    parts: ClassVar[tuple[str, ...]] = ("queries",)
    prompt_ids: Tensor

    def __init__(
        self,
        backbone: Backbone,
        adapters: AdapterSwitch,
        queries: SummaryQueries,
        params: CompressorParams,
    ) -> None:
        super().__init__(backbone, adapters, params)
        self.queries = queries

        # the prompt: frozen words, or vectors that start from these
        ids = torch.tensor(encode_text(backbone.tokenizer, params.prompt), dtype=torch.long)
        self.register_buffer("prompt_ids", ids, persistent=False)
        is_learned = params.prompt_embeddings == "learned"
        self.prompt_embeddings = self._learned_prompt() if is_learned else None

        if params.connector == "trained":
            backbone.train_connector()
        self.to(backbone.device)

    @property
    def num_summary_tokens(self) -> int:
        return len(self.queries.weight)

    def _learned_prompt(self) -> nn.Parameter:
        if not len(self.prompt_ids):
            raise ValueError(
                "prompt_embeddings: learned ones need a prompt to start from; `prompt` has no words"
            )
        words = self.backbone.embed(self.prompt_ids.to(self.backbone.device))
        return nn.Parameter(words.detach().float())

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Return summary tokens of pictures (pictures, summary tokens, dim)."""
        return self.compress_images(self.backbone.encode_images(pictures))

    @property
    def gives_prefixes(self) -> bool:
        """True when the first summary tokens are the same however many follow."""
        return self.params.attention == "causal"

    def keep_first(self, num_summary_tokens: int) -> None:
        """Keep the first queries only. Raises ValueError when they depend on the others."""
        if num_summary_tokens < self.num_summary_tokens and not self.gives_prefixes:
            raise ValueError(
                "of these summary tokens none can be left out, since each depends on all: only a "
                "causal pass of the language model gives prefixes"
            )
        self.queries.keep_first(num_summary_tokens)

    def compress_images(self, pictures: Segment) -> Tensor:
        """Compress what the backbone has read of pictures: (pictures, summary tokens, dim)."""
        return self.compression_pass(self.backbone.framed(pictures))

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compress captions (batch, tokens): (batch, summary tokens, dim).

        Ids are without BOS and padded on either side.
        """
        return self.compression_pass([text_segment(self.backbone.embed(input_ids), attention_mask)])

    def compression_pass(self, content: Sequence[Segment]) -> Tensor:
        """Read [BOS; content; prompt; queries]; keep the queries' last hidden states (Eq. 1).

        They are scaled to about the length of the image embeddings, which the second pass was
        trained to read there. Padding in the content is masked and takes no position, so it has no
        effect.
        """
        rows = content[0].num_rows
        prompt = self.backbone.embed(self.prompt_ids)
        if self.prompt_embeddings is not None:
            prompt = self.prompt_embeddings.to(prompt.dtype)

        # the queries come last: under a causal mask they see all the rest
        queries = self.queries(rows).to(prompt.dtype)
        end = [text_segment(prompt.expand(rows, -1, -1)), text_segment(queries)]
        inputs = join([self.bos(rows), *content, *end])
        states = self.read_to_compress(inputs, last_places(queries, inputs.mask))
        return self.params.summary_scale * states

    def read_to_compress(self, inputs: Segment, places: Tensor) -> Tensor:
        """Read rows with the compression adapter: hidden states at `places` (rows, kept, dim)."""
        mask = inputs.mask
        if self.params.attention == "bidirectional":
            # every token sees all that are there
            mask = mask[:, None, None].bool().expand(-1, 1, mask.shape[1], -1)
        with self.adapters.use(COMPRESSION):
            return self.read(inputs, mask, places)

    def masked_hidden(
        self, pictures: Segment, input_ids: Tensor, attention_mask: Tensor, is_hidden: Tensor
    ) -> Tensor:
        """Read [BOS; picture; caption] as the compression pass does, without some of the words.

        A hidden word is the mean of all embeddings. Returns the hidden states that predict the
        caption, (batch, caption tokens, dim): those of the positions before its tokens. Captions
        are ids and a mask, (batch, caption tokens).
        """
        # the mean tells nothing of the word, and lies where the model expects embeddings
        hidden_word = self.backbone.embedding_table.mean(0)
        caption = torch.where(is_hidden[..., None], hidden_word, self.backbone.embed(input_ids))
        content = [*self.backbone.framed(pictures), text_segment(caption, attention_mask)]
        inputs = join([self.bos(len(caption)), *content])

        # a place earlier than the caption's, since hidden states predict the next token
        return self.read_to_compress(inputs, last_places(caption, inputs.mask) - 1)

    @property
    def num_tokens_around_text(self) -> int:
        """The length of BOS, prompt and queries."""
        return 1 + self.prompt_ids.numel() + self.num_summary_tokens

    def own_tensors(self) -> dict[str, Tensor]:
        """Return queries, logit scale and learned prompt."""
        tensors = {"queries.weight": self.queries.weight, "log_logit_scale": self.log_logit_scale}
        if self.prompt_embeddings is not None:
            tensors["prompt_embeddings"] = self.prompt_embeddings
        return {name: tensor.detach() for name, tensor in tensors.items()}


def build_double_forward(backbone: Backbone, params: CompressorParams, seed: int) -> DoubleForward:
    """Attach untrained adapters and queries to a backbone, in place."""
    adapters = attach_adapters(backbone, params.adapters, PASSES, seed, in_tower=False)
    return DoubleForward(backbone, adapters, summary_queries(backbone, params, seed), params)


def summary_queries(backbone: Backbone, params: CompressorParams, seed: int) -> SummaryQueries:
    """Build the untrained queries that the language model reads."""
    words = encode_text(backbone.tokenizer, params.initial_queries)
    return SummaryQueries(params.num_summary_tokens, backbone.embedding_table, words, seed)


def last_places(queries: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the places of queries (batch, summary tokens, dim) at the end of sequences.

    They are (batch, summary tokens).
    """
    num_tokens = attention_mask.shape[1]
    places = torch.arange(num_tokens - queries.shape[1], num_tokens, device=queries.device)
    return places.expand(len(queries), -1)


METHOD = MethodModule(
    DoubleForward,
    NoSettings,
    num_stages=1,
    build=lambda backbone, params, _, seed: build_double_forward(backbone, params, seed),
)

"""What Fwd2Bot and every compared method have in common: all that training, compression and evaluation use of one.

A method is a base model that reads a picture as a few vectors. It says how it makes them
(`compress_pictures`), which losses teach it, and, where it cannot do what Fwd2Bot does, why not;
docs/methods.md shows how one is added.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import GENERATION, AdapterSwitch
from components.model.backbone import Backbone, Preprocessing
from components.model.chat import ChatFormat
from components.model.generation import decode, left_pad
from components.model.last_layer import hidden_states_at
from components.model.prepared import PreparedPictures
from components.model.segments import Segment, text_segment

AUTOREGRESSIVE, CONTRASTIVE = "autoregressive", "contrastive"  # the losses


class Method(nn.Module):
    """A base model, its adapters, and what a method adds to them. Fwd2Bot and the compared methods fill in the rest."""

    bos_ids: Tensor
    chosen: ChosenMethod
    losses: ClassVar[tuple[str, ...]]  # that teach it: AUTOREGRESSIVE, CONTRASTIVE
    parts: ClassVar[tuple[str, ...]]  # attributes that hold what it adds, apart from adapters
    # its tokens depend on the question, so that each has to be asked alone
    reads_questions: ClassVar[bool] = False
    # `embed_pictures` is the mean of stored tokens, which needs no model
    embeds_by_mean: ClassVar[bool] = True
    # its pairs are two texts each; pictures are not read in training
    learns_from_texts: ClassVar[bool] = False
    why_not_stored: ClassVar[str | None] = None  # why `compress` has nothing to store
    why_no_answers: ClassVar[str | None] = None  # why `answer` cannot read what is stored

    def __init__(
        self, backbone: Backbone, adapters: AdapterSwitch, params: CompressorParams
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.adapters = adapters
        is_learned = params.logit_scale == "learned" and CONTRASTIVE in self.losses
        self.log_logit_scale = nn.Parameter(
            torch.tensor(math.log(params.initial_logit_scale)), requires_grad=is_learned
        )
        bos = backbone.tokenizer.bos_token_id  # not every tokenizer has one
        self.register_buffer(
            "bos_ids",
            torch.tensor([] if bos is None else [bos], dtype=torch.long),
            persistent=False,
        )

    # What a method has to say.

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Preprocessed pictures -> all that is known of them before a question: (pictures, tokens, width).

        These are the summary tokens, which are stored, unless `why_not_stored` says something else.
        """
        raise NotImplementedError

    def own_tensors(self) -> dict[str, Tensor]:
        """All that has to be saved beside adapters and trained base weights, under the model's own names."""
        raise NotImplementedError

    @property
    def num_tokens_around_text(self) -> int:
        """What is read with a text that is embedded: BOS, a prompt, queries."""
        raise NotImplementedError

    # What it may have to say otherwise.

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Captions, ids without BOS and padded on either side (batch, tokens) -> (batch, summary tokens, dim)."""
        raise ValueError(f"{type(self).__name__} makes no summary tokens of a text")

    def embed_pictures(self, summary_tokens: Tensor) -> Tensor:
        """One vector to search for: (pictures, summary tokens, dim) -> (pictures, dim), L2-normalised, float32.

        The mean of the summary tokens, as in Fwd2Bot (§3.3).
        """
        return self.embedding(summary_tokens)

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector to search with: texts as `compress_texts` takes them -> (texts, dim), L2-normalised, float32."""
        return self.embedding(self.compress_texts(input_ids, attention_mask))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Make only so many summary tokens from now on, as a rule the first. Raises ValueError when it cannot."""
        if num_summary_tokens != self.num_summary_tokens:
            raise ValueError(
                f"{type(self).__name__} makes {self.num_summary_tokens} summary tokens of a picture; none can be left "
                "out, since each depends on all, or stands for a part of the picture"
            )

    def compress_for_training(self, pictures: PreparedPictures) -> Tensor:
        """As `compress_pictures`, with all that `cut` needs for the largest of the budgets of training."""
        return self.compress_pictures(pictures)

    def budgets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """How many tokens the conversations of a step may read, of which each draws one; `wanted` by the params."""
        return wanted or (self.num_placeholders,)

    def cut(self, tokens: Tensor, budgets: Tensor) -> Tensor:
        """Of each row (rows, tokens, dim) as many tokens as it may read (rows,), one after the other: (…, dim)."""
        return tokens[torch.arange(tokens.shape[1], device=tokens.device) < budgets[:, None]]

    @property
    def num_summary_tokens(self) -> int:
        """What the language model reads of a picture, and what is stored of one."""
        return self.params.num_summary_tokens

    @property
    def num_placeholders(self) -> int:
        """Image placeholders of a picture in a chat."""
        return self.num_summary_tokens

    def tokens_for_questions(
        self, encoded: Tensor, input_ids: Tensor, is_question: Tensor
    ) -> Tensor:
        """What is known of pictures (rows, …, width) -> their tokens for the questions in chats (rows, tokens, dim).

        `is_question` marks the words of the question in `input_ids`, (rows, tokens). Most methods
        do not ask for it.
        """
        return encoded

    def question_flops(
        self, language_model: int, num_question_tokens: float, num_generated: float
    ) -> float:
        """Operations of a later question, of which `language_model` weights do most: 2 N (K + Q + G)."""
        return 2 * language_model * (self.num_summary_tokens + num_question_tokens + num_generated)

    # Who reads pictures and texts: the base model, unless a method brings another one along.

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess RGB pictures of any size, on the CPU."""
        return self.backbone.prepare(images)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a picture; part of what stored tokens depend on."""
        return self.backbone.preprocessing

    @property
    def settings_sha256(self) -> dict[str, str]:
        """Hashes of what beside the weights changes answers, by whose it is."""
        return {"base": self.backbone.settings_sha256}

    @property
    def tokenizer(self) -> Any:
        """That of the texts which are embedded."""
        return self.backbone.tokenizer

    @property
    def chat(self) -> ChatFormat:
        return self.backbone.chat

    @property
    def image_token_id(self) -> int:
        return self.backbone.image_token_id

    @property
    def dim(self) -> int:
        """Numbers of a summary token."""
        return self.backbone.dim

    @property
    def max_positions(self) -> int:
        """The longest text that can be embedded, with what is read around it."""
        return self.backbone.max_positions

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    # The same for all.

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of the cosine similarities, a scalar with gradient."""
        return self.log_logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the multiplier at or below its maximum; to be called after every optimizer step, as in CLIP."""
        self.log_logit_scale.clamp_(max=math.log(self.params.max_logit_scale))

    def embedding(self, summary_tokens: Tensor) -> Tensor:
        """The mean of vectors (batch, tokens, dim), L2-normalised, float32: (batch, dim)."""
        return F.normalize(
            summary_tokens.to(torch.promote_types(summary_tokens.dtype, torch.float32)).mean(1),
            dim=-1,
        )

    def bos(self, rows: int) -> Segment:
        """The first token of every row; none if the model has no such token."""
        return text_segment(self.backbone.embed(self.bos_ids).expand(rows, -1, -1))

    def read(
        self, inputs: Segment, mask: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """One pass of the language model with the active adapter: hidden states, (rows, tokens, dim) or at `places`.

        `mask` in place of the segment's: (rows, tokens), or (rows, 1, tokens, tokens), True =
        attends.
        """
        language_model = self.backbone.language_model
        arguments = self.backbone.arguments(inputs, mask) | {"use_cache": False}
        if places is None:
            return language_model(**arguments).last_hidden_state
        return hidden_states_at(language_model, places, **arguments)

    def generation_hidden(
        self,
        visual_tokens: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        positions: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Read chats with visual tokens at the image placeholders (Eq. 2); (batch, tokens, dim), before the LM head.

        visual_tokens: (…, dim) in the order of the placeholders; None if there are none. The rest:
        (batch, tokens), any padding. Packed rows come with a mask (batch, 1, tokens, tokens), True
        = attends, and with their positions. With `places` (batch, kept) only the hidden states
        there come back, (batch, kept, dim), for less work.
        """
        chat = text_segment(
            self.backbone.embed_chat(input_ids, visual_tokens),
            attention_mask if attention_mask.ndim == 2 else None,
        )
        if positions is not None:
            chat = chat._replace(positions=positions[None])
        with self.adapters.use(GENERATION):
            return self.read(chat, attention_mask, places)

    @torch.inference_mode()
    def answer(
        self, encoded: Tensor | None, input_ids: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """What the generation pass answers to each prompt: new token ids, without the end token.

        encoded: what `compress_pictures` gave, or a store kept, of the picture of each prompt
        (prompts, tokens, width); None if no prompt has one. The model must be in evaluation mode.
        """
        self.check_ready()
        ids, mask = left_pad(input_ids, self.backbone.device)
        if encoded is not None:
            encoded = self.tokens_for_questions(encoded, ids, self.is_question(ids, mask))
        with self.adapters.use(GENERATION):
            return decode(
                self.backbone,
                text_segment(self.backbone.embed_chat(ids, encoded), mask),
                max_new_tokens,
            )

    def check_ready(self) -> None:
        """Raises ValueError when the model cannot answer (now)."""
        if self.why_no_answers:
            raise ValueError(self.why_no_answers)
        if self.training:
            raise ValueError(
                "the model is in training mode (dropout, no cache); call model.eval() before answering"
            )

    def is_question(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The tokens behind the picture: (rows, tokens) bool, from ids and mask (rows, tokens)."""
        is_picture = input_ids == self.backbone.image_token_id
        is_behind = ~is_picture.flip(1).cumsum(1).flip(1).bool()  # no placeholder here or later
        return is_behind & attention_mask.bool()


def enable_gradient_checkpointing(model: Method) -> None:
    """Recompute the decoder layers in the backward pass, each with the adapter it ran with."""
    language_model = model.backbone.language_model
    language_model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={
            "use_reentrant": False,
            "context_fn": model.adapters.context_fn,
        }
    )
    # The backward pass starts with the last layer: to recompute it frees nothing. Nor may it be
    # (`last_layer`).
    last: Any = language_model.layers[-1]
    last.gradient_checkpointing = False

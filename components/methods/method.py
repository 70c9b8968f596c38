"""The interface of methods, as training, compression and evaluation use it.

A method is a base model that reads a picture as a few vectors. It says how it makes them
(`compress_pictures`), which losses teach it, and, where it cannot do what Fwd2Bot does, why not;
docs/methods.md shows how one is added.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

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
from components.params import Params

AUTOREGRESSIVE, CONTRASTIVE = "autoregressive", "contrastive"  # the losses


class Preparer(Protocol):
    """Prepares pictures for a model, on the CPU."""

    @property
    def preprocessing(self) -> Preprocessing: ...

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures: ...


class Method(nn.Module):
    """A base model, its adapters, and what a method adds to them."""

    bos_ids: Tensor
    chosen: ChosenMethod
    losses: ClassVar[tuple[str, ...]]  # that teach it: AUTOREGRESSIVE, CONTRASTIVE
    parts: ClassVar[tuple[str, ...]]  # attributes that hold what it adds, apart from adapters
    # false where nothing runs the base model's language model
    uses_language_model: ClassVar[bool] = True
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

        # learned as a logarithm, as in CLIP; the autoregressive loss gives it no gradient
        is_learned = params.logit_scale == "learned" and CONTRASTIVE in self.losses
        self.log_logit_scale = nn.Parameter(
            torch.tensor(math.log(params.initial_logit_scale)), requires_grad=is_learned
        )

        bos = backbone.tokenizer.bos_token_id  # not every tokenizer has one
        ids = torch.tensor([] if bos is None else [bos], dtype=torch.long)
        self.register_buffer("bos_ids", ids, persistent=False)

    # Every method has to define these.

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Read preprocessed pictures, before any question: (pictures, tokens, width).

        These are the summary tokens, which are stored unless there is a `why_not_stored`.
        """
        raise NotImplementedError

    def own_tensors(self) -> dict[str, Tensor]:
        """Return the tensors to save beside adapters and trained base weights, by their names."""
        raise NotImplementedError

    @property
    def num_tokens_around_text(self) -> int:
        """The length of what is read with a text that is embedded: BOS, a prompt, queries."""
        raise NotImplementedError

    # A method may define these otherwise.

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compress captions (batch, tokens): (batch, summary tokens, dim).

        Ids are without BOS and padded on either side.
        """
        raise ValueError(f"{type(self).__name__} makes no summary tokens of a text")

    def embed_pictures(self, summary_tokens: Tensor) -> Tensor:
        """Embed pictures by their tokens (pictures, summary tokens, dim), to search for them.

        The result is the mean of the tokens, as in Fwd2Bot (§3.3): (pictures, dim), L2-normalised,
        float32.
        """
        return self.embedding(summary_tokens)

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts as `compress_texts` takes them: (texts, dim), L2-normalised, float32."""
        return self.embedding(self.compress_texts(input_ids, attention_mask))

    def keep_first(self, num_summary_tokens: int) -> None:
        """Make only so many summary tokens from now on, as a rule the first.

        Raises ValueError when it cannot.
        """
        if num_summary_tokens != self.num_summary_tokens:
            raise ValueError(
                f"{type(self).__name__} makes {self.num_summary_tokens} summary tokens of a "
                "picture; none can be left out, since each depends on all, or stands for a part of "
                "the picture"
            )

    def compress_for_training(self, pictures: PreparedPictures) -> Tensor:
        """Compress pictures with all that `cut` needs for the largest budget of training."""
        return self.compress_pictures(pictures)

    def budgets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Return the numbers of tokens that a conversation draws one of to read.

        `wanted` are those of the params.
        """
        return wanted or (self.num_placeholders,)

    def cut(self, tokens: Tensor, budgets: Tensor) -> Tensor:
        """Cut each row (rows, tokens, dim) to its budget (rows,): (…, dim), row after row."""
        return tokens[torch.arange(tokens.shape[1], device=tokens.device) < budgets[:, None]]

    @property
    def num_summary_tokens(self) -> int:
        """The number of tokens that are stored of a picture and that the language model reads."""
        return self.params.num_summary_tokens

    @property
    def num_placeholders(self) -> int:
        """The number of image placeholders of a picture in a chat."""
        return self.num_summary_tokens

    def tokens_for_questions(
        self, encoded: Tensor, input_ids: Tensor, is_question: Tensor
    ) -> Tensor:
        """Make tokens (rows, tokens, dim) of encoded pictures (rows, …, width) for questions.

        `is_question` marks the words of the question in `input_ids`, (rows, tokens). Most methods
        do not depend on it.
        """
        return encoded

    def question_flops(
        self, language_model: int, num_question_tokens: float, num_generated: float
    ) -> float:
        """Count the operations of a later question: 2 N (K + Q + G), N weights `language_model`."""
        return 2 * language_model * (self.num_summary_tokens + num_question_tokens + num_generated)

    # The base model reads pictures and texts, unless a method brings another one along.

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess RGB pictures of any size, on the CPU."""
        return self.backbone.prepare(images)

    @staticmethod
    def preparer(backbone: Backbone, chosen: ChosenMethod) -> Preparer:
        """Return what prepares pictures for the method, which needs no weights."""
        return backbone

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of a picture, on which stored tokens depend."""
        return self.backbone.preprocessing

    @property
    def settings_sha256(self) -> dict[str, str]:
        """Hashes of the files beside the weights that change answers, by whose they are."""
        return {"base": self.backbone.settings_sha256}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of texts to embed."""
        return self.backbone.tokenizer

    @property
    def chat(self) -> ChatFormat:
        return self.backbone.chat

    @property
    def image_token_id(self) -> int:
        return self.backbone.image_token_id

    @property
    def dim(self) -> int:
        """The length of a summary token."""
        return self.backbone.dim

    @property
    def max_positions(self) -> int:
        """The longest text that can be embedded, with what is read around it."""
        return self.backbone.max_positions

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    # All methods share these.

    @property
    def logit_scale(self) -> Tensor:
        """The multiplier of the cosine similarities, a scalar with gradient."""
        return self.log_logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the multiplier at or below its maximum: after every optimizer step, as in CLIP."""
        self.log_logit_scale.clamp_(max=math.log(self.params.max_logit_scale))

    def embedding(self, summary_tokens: Tensor) -> Tensor:
        """Average vectors (batch, tokens, dim): (batch, dim), L2-normalised, float32 or wider."""
        dtype = torch.promote_types(summary_tokens.dtype, torch.float32)
        return F.normalize(summary_tokens.to(dtype).mean(1), dim=-1)

    def bos(self, rows: int) -> Segment:
        """Return the first token of every row; none if the model has no such token."""
        return text_segment(self.backbone.embed(self.bos_ids).expand(rows, -1, -1))

    def read(
        self, inputs: Segment, mask: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Run the language model with the active adapter: hidden states (rows, tokens, dim).

        With `places` (rows, kept) only those there come back. `mask`, in place of the segment's, is
        (rows, tokens), or (rows, 1, tokens, tokens), True = attends.
        """
        # without a cache: nothing is generated from here
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
        """Read chats with visual tokens at the image placeholders (Eq. 2).

        Returns hidden states before the LM head, (batch, tokens, dim), or for less work only those
        at `places`, (batch, kept).

        visual_tokens: (…, dim) in the order of the placeholders; None if there are none. The rest:
        (batch, tokens), any padding. Packed rows come with a mask (batch, 1, tokens, tokens), True
        = attends, and with their positions.
        """
        # a packed row has a mask of its own shape, which no segment holds
        is_packed = attention_mask.ndim > 2
        embeddings = self.backbone.embed_chat(input_ids, visual_tokens)
        chat = text_segment(embeddings, None if is_packed else attention_mask)
        if positions is not None:
            chat = chat._replace(positions=positions[None])

        with self.adapters.use(GENERATION):
            return self.read(chat, attention_mask, places)

    @torch.inference_mode()
    def answer(
        self, encoded: Tensor | None, input_ids: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """Answer each prompt by the generation pass: new token ids, without the end token.

        encoded: what `compress_pictures` gave, or a store kept, of the picture of each prompt
        (prompts, tokens, width); None if no prompt has one. The model must be in evaluation mode.
        """
        self.check_ready()

        # generation starts at the right end of every row
        ids, mask = left_pad(input_ids, self.backbone.device)
        if encoded is not None:
            encoded = self.tokens_for_questions(encoded, ids, self.is_question(ids, mask))
        chats = text_segment(self.backbone.embed_chat(ids, encoded), mask)

        with self.adapters.use(GENERATION):
            return decode(self.backbone, chats, max_new_tokens)

    def check_ready(self) -> None:
        """Raise ValueError when the model cannot answer (now)."""
        if self.why_no_answers:
            raise ValueError(self.why_no_answers)
        if self.training:
            raise ValueError(
                "the model is in training mode (dropout, no cache); call model.eval() before "
                "answering"
            )

    def is_question(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mark the tokens behind the picture: (rows, tokens) bool, from ids and mask alike."""
        is_picture = input_ids == self.backbone.image_token_id
        is_behind = ~is_picture.flip(1).cumsum(1).flip(1).bool()  # no placeholder here or later
        return is_behind & attention_mask.bool()


class MethodModule(NamedTuple):
    """A method as its module describes it to the catalogue; each ends with such a `METHOD`."""

    model: type[Method]
    settings: type[Params]  # the contents of the YAML file beside the module
    # of training: 0 it learns nothing; 2 its new modules and the connector learn alone at first
    num_stages: Literal[0, 1, 2]
    # on a base model, in place; the number is a seed. Raises ValueError when the two do not fit
    build: Callable[[Backbone, CompressorParams, ChosenMethod, int], Method]


def enable_gradient_checkpointing(model: Method) -> None:
    """Recompute the decoder layers in the backward pass, each with the adapter it ran with."""
    language_model = model.backbone.language_model
    options = {"use_reentrant": False, "context_fn": model.adapters.context_fn}
    language_model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    # The backward pass starts with the last layer: to recompute it frees nothing. Nor may it be
    # (`last_layer`).
    last: Any = language_model.layers[-1]
    last.gradient_checkpointing = False

"""Dual encoders: an encoder for pictures and one for texts, whose vectors are compared (CLIP, arXiv 2103.00020).

With a checkpoint they are Table 3's and 4's: as they come, or fine-tuned whole. Without one a small
CLIP starts from nothing, with the tokenizer and the preprocessing of the base model. The loss is
CLIP's, symmetric and with a learned temperature; captions that are wrong by a word
(`texts.hard_negatives`) make it NegCLIP's (arXiv 2210.01936, §4). The base model's weights are not
read.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from components.methods.blocks.image_text_models import (
    OwnPictures,
    TextFrame,
    encoder_kind,
    frame_of,
    load_model,
    load_pictures,
    load_tokenizer,
    read_weights,
)
from components.methods.blocks.small_clip import SmallClipParams, build_small_clip, small_clip_frame
from components.methods.method import CONTRASTIVE, Method
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import AdapterSwitch
from components.model.backbone import Backbone, Preprocessing, Source, weights_sha256
from components.model.loading import find_source
from components.model.prepared import PreparedPictures
from components.model.settings_identity import settings_sha256
from components.params import Params

DUAL_ENCODER = "dual_encoder"


class DualEncoderParams(Params):
    """A checkpoint or, without one, the sizes of a new model."""

    # folder beside the base model, or hub id; null: a small CLIP from nothing
    checkpoint: str | None
    revision: str | None  # of a checkpoint on the hub
    # that the checkpoint must have; null: any
    weights_sha256: Annotated[str, Field(pattern="[0-9a-f]{64}")] | None
    small_clip: SmallClipParams


class Parts(NamedTuple):
    """A model and what it reads with."""

    encoder: Any  # a PreTrainedModel
    frame: TextFrame
    tokenizer: Any
    pictures: OwnPictures | None  # prepares them; None: the base model does
    folder: Path | None  # of the checkpoint


class DualEncoder(Method):
    """Two encoders; the base model only lends its tokenizer and image processor, if any."""

    losses = (CONTRASTIVE,)
    parts = ("encoder",)
    why_no_answers = (
        "a dual encoder compares pictures with texts and has no language model to answer with; ask a compressor that "
        "was trained to answer, such as fwd2bot"
    )

    def __init__(
        self, backbone: Backbone, parts: Parts, params: CompressorParams, chosen: ChosenMethod
    ) -> None:
        super().__init__(backbone, AdapterSwitch(backbone.vlm, {}), params)
        self.chosen = chosen
        self.kind = encoder_kind(parts.encoder)
        self.encoder = parts.encoder.requires_grad_(False)
        self.frame, self.own_tokenizer, self.own_pictures = (
            parts.frame,
            parts.tokenizer,
            parts.pictures,
        )
        self.folder = parts.folder
        if chosen.tuning == "trained":
            for weight in read_weights(self.encoder).values():
                weight.requires_grad_(True)
        self.to(backbone.device)

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """The vector of each picture, of BLIP-2 one for each query: (pictures, tokens, dim)."""
        return self.kind.pictures(
            self.encoder, pictures.to(self.device, self.encoder.dtype).tensors["pixel_values"]
        )

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The vector of each text: (texts, 1, dim)."""
        return self.kind.texts(self.encoder, *self.frame.rows(input_ids, attention_mask))[:, None]

    def own_tensors(self) -> dict[str, Tensor]:
        """All weights and the logit scale, if they were trained: a checkpoint as it comes is where it was."""
        if self.chosen.tuning == "none":
            return {}
        weights = {
            f"encoder.{name}": tensor.detach() for name, tensor in self.encoder.state_dict().items()
        }
        return {**weights, "log_logit_scale": self.log_logit_scale.detach()}

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """As the checkpoint wants them, or as the base model does."""
        return (self.own_pictures or self.backbone).prepare(images)

    @property
    def preprocessing(self) -> Preprocessing:
        return (self.own_pictures or self.backbone).preprocessing

    @property
    def settings_sha256(self) -> dict[str, str]:
        """Of a checkpoint too."""
        own = {} if self.folder is None else {"checkpoint": settings_sha256(self.folder)}
        return super().settings_sha256 | own

    @property
    def tokenizer(self) -> Any:
        return self.own_tokenizer

    @property
    def dim(self) -> int:
        return self.kind.dim(self.encoder.config)

    @property
    def max_positions(self) -> int:
        return self.frame.max_tokens

    @property
    def num_tokens_around_text(self) -> int:
        """Those that begin and end it."""
        return self.frame.num_tokens


def build_dual_encoder(
    backbone: Backbone, params: CompressorParams, method: ChosenMethod, seed: int
) -> DualEncoder:
    """From a checkpoint or from nothing; `params` of the result have its number of tokens and its first scale.

    Raises ValueError for a checkpoint that is not the one of the settings, or for nothing that is
    not to be trained.
    """
    settings = DualEncoderParams.model_validate(method.settings)
    changes: dict[str, Any] = {} if method.tuning == "trained" else {"logit_scale": "fixed"}
    if settings.checkpoint is None:
        parts = new_parts(backbone, settings.small_clip, method.tuning, seed)
    else:
        parts, found = load_parts(
            backbone, settings, torch.float32 if method.tuning == "trained" else backbone.dtype
        )
        method = method.model_copy(update={"settings": method.settings | {"weights_sha256": found}})
        changes |= known_scale(parts.encoder, params.max_logit_scale)
    changes["num_summary_tokens"] = getattr(parts.encoder.config, "num_query_tokens", 1)
    return DualEncoder(backbone, parts, params.model_copy(update=changes), method)


def new_parts(backbone: Backbone, sizes: SmallClipParams, tuning: str, seed: int) -> Parts:
    """A small CLIP. Raises ValueError if it is not to learn anything."""
    if tuning == "none":
        raise ValueError(
            "train.method.dual_encoder.checkpoint: null is a model that knows nothing, and train.method.tuning: none "
            "leaves it so; name a checkpoint, or set tuning to trained"
        )
    frame = small_clip_frame(backbone, sizes)
    return Parts(build_small_clip(backbone, sizes, seed), frame, backbone.tokenizer, None, None)


def known_scale(encoder: Any, largest: float) -> dict[str, float]:
    """Where a checkpoint has learned its scale to be, to go on from there; nothing for BLIP, which keeps none."""
    if not hasattr(encoder, "logit_scale"):
        return {}
    return {"initial_logit_scale": min(math.exp(encoder.logit_scale.item()), largest)}


def load_parts(
    backbone: Backbone, settings: DualEncoderParams, dtype: torch.dtype
) -> tuple[Parts, str]:
    """A checkpoint with its own tokenizer and image processor, and the SHA-256 of its weights."""
    source = find_checkpoint(backbone, settings)
    found = weights_sha256(source.folder)
    if settings.weights_sha256 not in (None, found):
        raise ValueError(
            f"train.method.dual_encoder.checkpoint {settings.checkpoint}: SHA-256 of the weights is {found}, not "
            f"{settings.weights_sha256}; take the checkpoint that was meant, or set weights_sha256 to null"
        )
    encoder, tokenizer = load_model(source, dtype), load_tokenizer(source)
    return Parts(
        encoder, frame_of(tokenizer, encoder), tokenizer, load_pictures(source), source.folder
    ), found


def find_checkpoint(backbone: Backbone, settings: DualEncoderParams) -> Source:
    """Where the files of a checkpoint are. Raises ValueError when its name can be neither a folder's nor the hub's."""
    assert settings.checkpoint is not None
    beside = backbone.source.folder.parent / settings.checkpoint
    if beside.is_dir():
        return Source(beside, settings.checkpoint, settings.revision)
    if "/" not in settings.checkpoint:
        raise ValueError(
            f"train.method.dual_encoder.checkpoint {settings.checkpoint}: there is no folder {beside}; put it there, "
            "beside the base model, or name one on the hub"
        )
    return find_source(settings.checkpoint, settings.revision)


def pictures_of(backbone: Backbone, method: ChosenMethod) -> OwnPictures | None:
    """What prepares pictures for a dual encoder, without its weights; None: the base model does."""
    settings = DualEncoderParams.model_validate(method.settings)
    return load_pictures(find_checkpoint(backbone, settings)) if settings.checkpoint else None

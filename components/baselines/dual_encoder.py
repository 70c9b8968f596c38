"""Dual encoders: pictures and texts have an encoder each (CLIP, arXiv 2103.00020).

With a checkpoint they are rows of Tables 3 and 4: as they come, or fine-tuned as a whole. Without
one a small CLIP starts from nothing, with the tokenizer and the preprocessing of the base model.
The loss is CLIP's, symmetric and with a learned temperature; captions that are wrong by a word
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
    FILE,
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
from components.methods.method import CONTRASTIVE, Method, MethodModule
from components.methods.method_settings import ChosenMethod, CompressorParams
from components.model.adapters import AdapterSwitch
from components.model.backbone import Backbone, Preprocessing, Source, weights_sha256
from components.model.loading import find_source
from components.model.prepared import PreparedPictures
from components.model.settings_identity import settings_sha256
from components.params import Params


class DualEncoderParams(Params):
    """Settings of a dual encoder: a checkpoint or, without one, the sizes of a new model."""

    # folder beside the base model, or hub id; null: a small CLIP from nothing
    checkpoint: str | None
    revision: str | None  # of a checkpoint on the hub
    # that the checkpoint must have; null: any
    weights_sha256: Annotated[str, Field(pattern="[0-9a-f]{64}")] | None
    small_clip: SmallClipParams


class Parts(NamedTuple):
    """A model, and the tokenizer and image processor that prepare its inputs."""

    encoder: Any  # a PreTrainedModel
    frame: TextFrame
    tokenizer: Any
    pictures: OwnPictures | None  # prepares them; None: the base model does
    folder: Path | None  # of the checkpoint


class DualEncoder(Method):
    """Two encoders; the base model lends its tokenizer and image processor at most."""

    losses = (CONTRASTIVE,)
    parts = ("encoder",)
    uses_language_model = False
    why_no_answers = (
        "a dual encoder compares pictures with texts and has no language model to answer with; ask "
        "a compressor that was trained to answer, such as fwd2bot"
    )

    def __init__(
        self, backbone: Backbone, parts: Parts, params: CompressorParams, chosen: ChosenMethod
    ) -> None:
        super().__init__(backbone, AdapterSwitch(backbone.vlm, {}), params)
        self.chosen = chosen
        self.kind = encoder_kind(parts.encoder)
        self.encoder = parts.encoder.requires_grad_(False)
        self.frame, self.folder = parts.frame, parts.folder
        self.own_tokenizer, self.own_pictures = parts.tokenizer, parts.pictures

        # weights that no vector depends on would get no gradient
        if chosen.tuning == "trained":
            for weight in read_weights(self.encoder).values():
                weight.requires_grad_(True)
        self.to(backbone.device)

    def compress_pictures(self, pictures: PreparedPictures) -> Tensor:
        """Embed each picture, by BLIP-2 once for each query: (pictures, tokens, dim)."""
        pixels = pictures.to(self.device, self.encoder.dtype).tensors["pixel_values"]
        return self.kind.pictures(self.encoder, pixels)

    def compress_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed each text: (texts, 1, dim)."""
        return self.kind.texts(self.encoder, *self.frame.rows(input_ids, attention_mask))[:, None]

    def own_tensors(self) -> dict[str, Tensor]:
        """Return all weights and the logit scale if they were trained, otherwise nothing."""
        if self.chosen.tuning == "none":
            return {}

        tensors: dict[str, Tensor] = {}
        for name, weight in self.encoder.state_dict().items():
            tensors[f"encoder.{name}"] = weight.detach()
        return tensors | {"log_logit_scale": self.log_logit_scale.detach()}

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess pictures for the checkpoint or, without one, as for the base model."""
        return (self.own_pictures or self.backbone).prepare(images)

    @staticmethod
    def preparer(backbone: Backbone, chosen: ChosenMethod) -> Backbone | OwnPictures:
        """Return what prepares pictures, without loading weights."""
        settings = DualEncoderParams.model_validate(chosen.settings)
        if settings.checkpoint is None:
            return backbone
        return load_pictures(find_checkpoint(backbone, settings.checkpoint, settings.revision))

    @property
    def preprocessing(self) -> Preprocessing:
        return (self.own_pictures or self.backbone).preprocessing

    @property
    def settings_sha256(self) -> dict[str, str]:
        """Hashes of the settings of the base model and of the checkpoint."""
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
        """The number of tokens that begin and end a text."""
        return self.frame.num_tokens


def build_dual_encoder(
    backbone: Backbone, params: CompressorParams, chosen: ChosenMethod, seed: int
) -> DualEncoder:
    """Build a dual encoder from a checkpoint or from nothing.

    The `params` of the result have its number of tokens and its first scale. Raises ValueError for
    a checkpoint that is not the one of the settings, or for nothing that is not to be trained.
    """
    settings = DualEncoderParams.model_validate(chosen.settings)
    is_trained = chosen.tuning == "trained"
    changes: dict[str, Any] = {} if is_trained else {"logit_scale": "fixed"}

    # a checkpoint is kept with its hash, and goes on from its own scale
    if settings.checkpoint is None:
        parts = new_parts(backbone, settings.small_clip, chosen.tuning, seed)
    else:
        source = find_checkpoint(backbone, settings.checkpoint, settings.revision)
        found = check_weights(source, settings.weights_sha256)
        parts = load_parts(source, torch.float32 if is_trained else backbone.dtype)
        chosen = chosen.model_copy(update={"settings": chosen.settings | {"weights_sha256": found}})
        changes |= learned_scale(parts.encoder, params.max_logit_scale)

    # BLIP-2 makes a vector of each query, all others make one
    changes["num_summary_tokens"] = getattr(parts.encoder.config, "num_query_tokens", 1)
    return DualEncoder(backbone, parts, params.model_copy(update=changes), chosen)


def new_parts(backbone: Backbone, sizes: SmallClipParams, tuning: str, seed: int) -> Parts:
    """Build a small CLIP. Raises ValueError if it is not to learn anything."""
    if tuning == "none":
        raise ValueError(
            f"{FILE}: checkpoint: null is a model that knows nothing, and train.method.tuning: "
            "none leaves it so; name a checkpoint, or set tuning to trained"
        )
    frame = small_clip_frame(backbone, sizes)
    return Parts(build_small_clip(backbone, sizes, seed), frame, backbone.tokenizer, None, None)


def learned_scale(encoder: Any, largest: float) -> dict[str, float]:
    """Return the scale that a checkpoint has learned, to go on from; BLIP's keep none."""
    if not hasattr(encoder, "logit_scale"):
        return {}
    return {"initial_logit_scale": min(math.exp(encoder.logit_scale.item()), largest)}


def check_weights(source: Source, expected: str | None) -> str:
    """Hash the weights of a checkpoint. Raises ValueError when they are not the expected ones."""
    found = weights_sha256(source.folder)
    if expected not in (None, found):
        raise ValueError(
            f"{FILE}: checkpoint {source.name}: SHA-256 of the weights is {found}, not {expected}; "
            "take the checkpoint that was meant, or set weights_sha256 to null"
        )
    return found


def load_parts(source: Source, dtype: torch.dtype) -> Parts:
    """Load a checkpoint with its own tokenizer and image processor."""
    encoder, tokenizer = load_model(source, dtype), load_tokenizer(source)
    frame = frame_of(tokenizer, encoder)
    return Parts(encoder, frame, tokenizer, load_pictures(source), source.folder)


def find_checkpoint(backbone: Backbone, name: str, revision: str | None) -> Source:
    """Find the files of a checkpoint: a folder beside the base model, or the hub's.

    Raises ValueError when its name can be neither.
    """
    # a folder goes first, so that a checkpoint needs no network
    beside = backbone.source.folder.parent / name
    if beside.is_dir():
        return Source(beside, name, revision)
    if "/" not in name:
        raise ValueError(
            f"{FILE}: checkpoint {name}: there is no folder {beside}; put it there, beside the "
            "base model, or name one on the hub"
        )
    return find_source(name, revision)


METHOD = MethodModule(DualEncoder, DualEncoderParams, 1, build_dual_encoder)

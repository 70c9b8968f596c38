"""Models with an encoder for pictures and one for texts, by transformers' classes: their vectors, before they compare.

CLIP (arXiv 2103.00020; OpenCLIP's weights too, where they were converted), SigLIP (2303.15343),
BLIP (2201.12086) and BLIP-2 (2301.12597). What a class makes of pixels and of token ids is all that
differs; BLIP-2 makes a vector of each of its queries, of which its paper compares the best and a
store of means compares the mean (MaxSim finds the best again).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    Blip2ForImageTextRetrieval,
    BlipForImageTextRetrieval,
    CLIPModel,
    PreTrainedModel,
    SiglipModel,
)

from components.model.backbone import Preprocessing, Source, image_processor_sha256
from components.model.chat import encode_text
from components.model.loading import architectures_of
from components.model.model_files import check_settings_files
from components.model.prepared import PreparedPictures
from components.model.pretrained import load_image_processor, load_pretrained
from components.model.pretrained import load_tokenizer as load_any_tokenizer


class Kind(NamedTuple):
    """What one class of models does its own way; ids and mask (texts, tokens) are padded on the right."""

    load: type[PreTrainedModel]
    pictures: Callable[[Any, Tensor], Tensor]  # pixels -> (pictures, tokens, dim)
    texts: Callable[[Any, Tensor, Tensor], Tensor]  # ids and mask -> (texts, dim)
    dim: Callable[[Any], int]  # by the config
    unread: str  # pattern of the names of weights that the vectors do not depend on
    text_config: str = "text_config"  # the part of the config that has the longest text
    fills_up: bool = False  # whether every text is as long as the longest


def clip_pictures(model: Any, pixels: Tensor) -> Tensor:
    return model.get_image_features(pixel_values=pixels).pooler_output[:, None]


def clip_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """At the end token, which is the last: transformers finds it by its id, which is not CLIP's in every tokenizer."""
    states = model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    rows = torch.arange(len(input_ids), device=input_ids.device)
    return model.text_projection(states[rows, attention_mask.sum(1) - 1])


def siglip_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Without a mask, as it was trained: it reads what fills a text up, and at the last of it says what it read."""
    return model.get_text_features(input_ids).pooler_output


def blip_pictures(model: Any, pixels: Tensor) -> Tensor:
    return model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, :1])


def blip_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    states = model.text_encoder(
        input_ids=input_ids, attention_mask=attention_mask
    ).last_hidden_state
    return model.text_proj(states[:, 0])


def blip_2_pictures(model: Any, pixels: Tensor) -> Tensor:
    """Of each query one, L2-normalised."""
    patches = model.vision_model(pixel_values=pixels).last_hidden_state
    queries = model.query_tokens.expand(len(patches), -1, -1)
    states = model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
    return torch.nn.functional.normalize(
        model.vision_projection(states.to(model.vision_projection.weight.dtype)), dim=-1
    )


def blip_2_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    words = model.embeddings(input_ids=input_ids)
    states = model.qformer(
        query_embeds=words, query_length=0, attention_mask=attention_mask
    ).last_hidden_state
    return model.text_projection(states[:, 0].to(model.text_projection.weight.dtype))


def clip_dim(config: Any) -> int:
    return config.projection_dim


def siglip_dim(config: Any) -> int:
    return config.vision_config.hidden_size


def blip_dim(config: Any) -> int:
    return config.image_text_hidden_size


KINDS: dict[str, Kind] = {
    kind.load.__name__: kind
    for kind in (
        Kind(CLIPModel, clip_pictures, clip_texts, clip_dim, "logit_scale"),
        Kind(
            SiglipModel,
            clip_pictures,
            siglip_texts,
            siglip_dim,
            "logit_(scale|bias)",
            fills_up=True,
        ),
        Kind(
            BlipForImageTextRetrieval,
            blip_pictures,
            blip_texts,
            blip_dim,
            "itm_head|crossattention",
        ),
        Kind(
            Blip2ForImageTextRetrieval,
            blip_2_pictures,
            blip_2_texts,
            blip_dim,
            "itm_head",
            "qformer_config",
        ),
    )
}


class OwnPictures(NamedTuple):
    """Prepares pictures as a checkpoint wants them."""

    image_processor: Any

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """RGB pictures of any size, on the CPU."""
        output = self.image_processor(list(images), return_tensors="pt")
        return PreparedPictures(len(images), {"pixel_values": output["pixel_values"]})

    @property
    def preprocessing(self) -> Preprocessing:
        return {
            "pad_to_square": False,
            "image_processor_sha256": image_processor_sha256(self.image_processor),
        }


def load_pictures(source: Source) -> OwnPictures:
    """What prepares pictures for a checkpoint."""
    return OwnPictures(load_image_processor(source.folder))


def load_model(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """The weights of a checkpoint. Raises ValueError for one of another class, or one that is not whole."""
    check_settings_files(source.folder)
    named = architectures_of(source.folder) or ["no class"]
    if named[0] not in KINDS:
        raise ValueError(
            f"components/baselines/dual_encoder.yaml: checkpoint {source.name} is a {named[0]}; take one of {', '.join(KINDS)}, or "
            "convert it: transformers has scripts for the weights of OpenCLIP, LAVIS and big_vision"
        )
    return load_pretrained(KINDS[named[0]].load, source.folder, dtype=dtype)


def load_tokenizer(source: Source) -> Any:
    """That of a checkpoint. Raises ValueError for one that cannot say where its tokens stand in a text."""
    tokenizer = load_any_tokenizer(source.folder)
    if not tokenizer.is_fast:
        raise ValueError(
            f"components/baselines/dual_encoder.yaml: checkpoint {source.name}: its {type(tokenizer).__name__} is not a fast one; "
            "save it once as such, so that the folder has a tokenizer.json"
        )
    return tokenizer


def encoder_kind(model: Any) -> Kind:
    return KINDS[type(model).__name__]


def read_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """What the vectors depend on, by name."""
    unread = re.compile(encoder_kind(model).unread)
    return {name: weight for name, weight in model.named_parameters() if not unread.search(name)}


class TextFrame(NamedTuple):
    """What stands around a text and fills it up, as token ids, and how long it gets."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    filler: int
    min_tokens: int
    max_tokens: int

    def rows(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Plain texts, ids and mask padded on either side (texts, tokens) -> framed ones, filled up on the right.

        Texts that are too long lose their end.
        """
        room = self.max_tokens - self.num_tokens
        before, after = (input_ids.new_tensor(part) for part in (self.before, self.after))
        plain = [
            ids[mask.bool()][:room] for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        framed = [torch.cat([before, ids, after]) for ids in plain]
        lengths = torch.tensor([len(row) for row in framed], device=input_ids.device)
        ids = torch.nn.utils.rnn.pad_sequence(framed, batch_first=True, padding_value=self.filler)
        ids = torch.nn.functional.pad(
            ids, (0, max(0, self.min_tokens - ids.shape[1])), value=self.filler
        )
        return ids, (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()

    @property
    def num_tokens(self) -> int:
        """Those around a text."""
        return len(self.before) + len(self.after)


def frame_of(tokenizer: Any, model: Any) -> TextFrame:
    """What a tokenizer itself puts around a text for a model."""
    kind = encoder_kind(model)
    longest = getattr(model.config, kind.text_config).max_position_embeddings
    plain, whole = encode_text(tokenizer, "a"), tokenizer("a")["input_ids"]
    first = next(at for at in range(len(whole)) if whole[at : at + len(plain)] == plain)
    after = tuple(whole[first + len(plain) :])
    return TextFrame(
        tuple(whole[:first]),
        after,
        tokenizer.pad_token_id,
        longest if kind.fills_up else 0,
        longest,
    )

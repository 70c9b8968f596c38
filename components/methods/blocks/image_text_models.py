"""Image-text models: an encoder for pictures and one for texts, by transformers' classes.

CLIP (arXiv 2103.00020; OpenCLIP's weights too, where they were converted), SigLIP (2303.15343),
BLIP (2201.12086) and BLIP-2 (2301.12597). They differ in how they read pixels and token ids. BLIP-2
makes one vector for each of its queries: its paper compares the best of them, a store of means
compares their mean, and MaxSim finds the best again.
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

FILE = "components/baselines/dual_encoder.yaml"  # where users name a checkpoint


class Kind(NamedTuple):
    """A class of models; ids and mask (texts, tokens) are padded on the right."""

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
    """Embed texts at the end token, which is the last.

    transformers finds it by its id, which is not CLIP's in every tokenizer.
    """
    states = model.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    rows = torch.arange(len(input_ids), device=input_ids.device)
    return model.text_projection(states[rows, attention_mask.sum(1) - 1])


def siglip_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Embed texts at the last token, without a mask: the model was trained with the filler."""
    return model.get_text_features(input_ids).pooler_output


def blip_pictures(model: Any, pixels: Tensor) -> Tensor:
    return model.vision_proj(model.vision_model(pixel_values=pixels).last_hidden_state[:, :1])


def blip_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    output = model.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
    return model.text_proj(output.last_hidden_state[:, 0])


def blip_2_pictures(model: Any, pixels: Tensor) -> Tensor:
    """Embed pictures once for each query, L2-normalised."""
    # the Q-Former reads the patches with its queries (BLIP-2, §3.1)
    patches = model.vision_model(pixel_values=pixels).last_hidden_state
    queries = model.query_tokens.expand(len(patches), -1, -1)
    states = model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
    vectors = model.vision_projection(states.to(model.vision_projection.weight.dtype))
    return torch.nn.functional.normalize(vectors, dim=-1)


def blip_2_texts(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    words = model.embeddings(input_ids=input_ids)
    output = model.qformer(query_embeds=words, query_length=0, attention_mask=attention_mask)
    first = output.last_hidden_state[:, 0]
    return model.text_projection(first.to(model.text_projection.weight.dtype))


def clip_dim(config: Any) -> int:
    return config.projection_dim


def siglip_dim(config: Any) -> int:
    return config.vision_config.hidden_size


def blip_dim(config: Any) -> int:
    return config.image_text_hidden_size


CLIP = Kind(CLIPModel, clip_pictures, clip_texts, clip_dim, unread="logit_scale")
SIGLIP = Kind(
    SiglipModel,
    clip_pictures,
    siglip_texts,
    siglip_dim,
    unread="logit_(scale|bias)",
    fills_up=True,
)
BLIP = Kind(
    BlipForImageTextRetrieval,
    blip_pictures,
    blip_texts,
    blip_dim,
    unread="itm_head|crossattention",
)
BLIP_2 = Kind(
    Blip2ForImageTextRetrieval,
    blip_2_pictures,
    blip_2_texts,
    blip_dim,
    unread="itm_head",
    text_config="qformer_config",
)
KINDS = {kind.load.__name__: kind for kind in (CLIP, SIGLIP, BLIP, BLIP_2)}


class OwnPictures(NamedTuple):
    """The image processor of a checkpoint, in the place of the base model's."""

    image_processor: Any

    def prepare(self, images: Sequence[Image.Image]) -> PreparedPictures:
        """Preprocess RGB pictures of any size, on the CPU."""
        output = self.image_processor(list(images), return_tensors="pt")
        return PreparedPictures(len(images), {"pixel_values": output["pixel_values"]})

    @property
    def preprocessing(self) -> Preprocessing:
        return {
            "pad_to_square": False,
            "image_processor_sha256": image_processor_sha256(self.image_processor),
        }


def load_pictures(source: Source) -> OwnPictures:
    """Load the image processor of a checkpoint."""
    return OwnPictures(load_image_processor(source.folder))


def load_model(source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """Load the weights of a checkpoint.

    Raises ValueError for one of another class, or one that is not whole.
    """
    check_settings_files(source.folder)
    named = architectures_of(source.folder) or ["no class"]
    if named[0] not in KINDS:
        raise ValueError(
            f"{FILE}: checkpoint {source.name} is a {named[0]}; take one of {', '.join(KINDS)}, or "
            "convert it: transformers has scripts for the weights of OpenCLIP, LAVIS and big_vision"
        )
    return load_pretrained(KINDS[named[0]].load, source.folder, dtype=dtype)


def load_tokenizer(source: Source) -> Any:
    """Load the tokenizer of a checkpoint.

    Raises ValueError for one that cannot say where its tokens stand in a text.
    """
    tokenizer = load_any_tokenizer(source.folder)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{FILE}: checkpoint {source.name}: its {type(tokenizer).__name__} is not a fast one; "
            "save it once as such, so that the folder has a tokenizer.json"
        )
    return tokenizer


def encoder_kind(model: Any) -> Kind:
    return KINDS[type(model).__name__]


def read_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the weights that the vectors depend on, by name."""
    unread = re.compile(encoder_kind(model).unread)
    return {name: weight for name, weight in model.named_parameters() if not unread.search(name)}


class TextFrame(NamedTuple):
    """The tokens around a text, the one that fills it up, and the bounds of its length."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    filler: int
    min_tokens: int
    max_tokens: int

    def rows(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Put the frame around texts: ids and mask (texts, tokens), padded on the right.

        The arguments are without it, padded on either side. Texts that are too long lose their end.
        """
        # cut what is too long, and frame it
        before, after = input_ids.new_tensor(self.before), input_ids.new_tensor(self.after)
        framed = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            plain = ids[mask.bool()][: self.max_tokens - self.num_tokens]
            framed.append(torch.cat([before, plain, after]))

        # fill up to the longest, or to the length that the model wants
        rows = torch.nn.utils.rnn.pad_sequence(framed, batch_first=True, padding_value=self.filler)
        missing = max(0, self.min_tokens - rows.shape[1])
        rows = torch.nn.functional.pad(rows, (0, missing), value=self.filler)
        lengths = torch.tensor([len(row) for row in framed], device=rows.device)
        return rows, (torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]).long()

    @property
    def num_tokens(self) -> int:
        """The number of tokens around a text."""
        return len(self.before) + len(self.after)


def frame_of(tokenizer: Any, model: Any) -> TextFrame:
    """Find the tokens that a tokenizer itself puts around a text for a model."""
    plain, framed = encode_text(tokenizer, "a"), tokenizer("a")["input_ids"]

    # the tokenizer's own output with and without the frame shows where the text starts
    first = next(at for at in range(len(framed)) if framed[at : at + len(plain)] == plain)

    kind = encoder_kind(model)
    longest = getattr(model.config, kind.text_config).max_position_embeddings
    return TextFrame(
        before=tuple(framed[:first]),
        after=tuple(framed[first + len(plain) :]),
        filler=tokenizer.pad_token_id,
        min_tokens=longest if kind.fills_up else 0,
        max_tokens=longest,
    )

"""Compression as one would write it from Hugging Face's parts, to be measured against.

One process reads, decodes and preprocesses picture by picture, then runs the whole model on a
padded batch: every layer of tower and decoder at every position, all hidden states kept, the logits
of all positions. The adapter is PEFT's.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.compression.corpus import Picture
from components.methods.fwd2bot import DoubleForward
from components.model.adapters import COMPRESSION
from components.model.backbone import pad_to_square
from components.model.families.llava import num_image_tokens


def undo_shortcuts(model: DoubleForward) -> DoubleForward:
    """Give the model Hugging Face's and PEFT's own computations back, in place."""
    for layer in [*model.adapters.layers, *model.backbone.vlm.model.vision_tower.encoder.layers]:
        layer.__dict__.pop("forward", None)
    return model


def plain_pixels(model: DoubleForward, pictures: Sequence[Picture]) -> Tensor:
    """Decode and preprocess one after the other: (pictures, channels, height, width)."""
    backbone, pixels = model.backbone, []
    for picture in pictures:
        image = Image.open(io.BytesIO(picture.load())).convert("RGB")
        if backbone.pad_to_square:
            image = pad_to_square(image, backbone.image_processor.image_mean)
        pixels.append(backbone.image_processor(image, return_tensors="pt")["pixel_values"])
    return torch.cat(pixels)


@torch.inference_mode()
def plain_tokens(model: DoubleForward, pixels: Tensor) -> np.ndarray:
    """Run the whole model: float32 summary tokens (pictures, summary tokens, dim)."""
    vlm, backbone, rows = model.backbone.vlm, model.backbone, len(pixels)
    ids = prompt_ids(model).expand(rows, -1)
    length = ids.shape[1] + model.num_summary_tokens
    mask = torch.ones(rows, length, dtype=torch.long, device=ids.device)

    # The features of the pictures take the places of their placeholders.
    embeddings = vlm.get_input_embeddings()(ids)
    pixels = pixels.to(backbone.device, backbone.dtype)
    features = vlm.model.get_image_features(pixel_values=pixels)
    images = torch.cat(list(features.pooler_output)).to(embeddings.dtype)
    is_image = (ids == backbone.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(is_image, images)

    # The hidden states behind the queries are the summary tokens.
    queries = model.queries(rows).to(embeddings.dtype)
    with model.adapters.use(COMPRESSION):
        output = vlm(
            inputs_embeds=torch.cat([embeddings, queries], dim=1),
            attention_mask=mask,
            output_hidden_states=True,
        )
    tokens = model.params.summary_scale * output.hidden_states[-1][:, -model.num_summary_tokens :]
    return tokens.float().cpu().numpy()


def prompt_ids(model: DoubleForward) -> Tensor:
    """Join BOS, the picture's placeholders in their frame and the prompt: (1, tokens)."""
    before, after = (torch.tensor(ids, dtype=torch.long) for ids in model.backbone.chat.frame_ids)
    num_tokens = num_image_tokens(model.backbone.vlm.config)
    picture = torch.full((num_tokens,), model.backbone.image_token_id)
    ids = [model.bos_ids.cpu(), before, picture, after, model.prompt_ids.cpu()]
    return torch.cat(ids)[None].to(model.backbone.device)

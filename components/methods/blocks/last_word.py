"""A picture or a text as the one word that the language model is about to say of it (E5-V, arXiv 2407.12580, §3.1).

It is asked for this word as for anything else, in the model's own chat template. The hidden state
that would predict the word is a vector to search with, without any training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from components.methods.method import Method
from components.model.backbone import Backbone
from components.model.chat import encode_prompt, encode_prompt_around
from components.model.generation import left_pad
from components.model.segments import Segment, join, text_segment

IMAGE_IN_ONE_WORD = "Summary above image in one word:"
TEXT_IN_ONE_WORD = "Summary above sentence in one word:"


def image_in_one_word(model: Method, name: str, pictures: Segment) -> Tensor:
    """Visual tokens of pictures in a chat, read with the adapter of a pass -> (pictures, dim), as `about_to_say`."""
    backbone = model.backbone
    prompts = [encode_prompt(backbone.chat, IMAGE_IN_ONE_WORD, count) for count in pictures.lengths]
    return about_to_say(
        model, name, backbone.chat_segment(*left_pad(prompts, backbone.device), pictures)
    )


def text_in_one_word(model: Method, name: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Texts, ids without BOS and padded on either side (texts, tokens), likewise -> (texts, dim)."""
    backbone = model.backbone
    before, behind = (
        text_segment(
            backbone.embed(torch.tensor([ids], device=backbone.device)).expand(
                len(input_ids), -1, -1
            )
        )
        for ids in encode_prompt_around(backbone.chat, TEXT_IN_ONE_WORD)
    )
    text = text_segment(backbone.embed(input_ids), attention_mask)
    return about_to_say(model, name, join([before, text, behind]))


def num_tokens_around_text(backbone: Backbone) -> int:
    """What is read with a text: the rest of the chat."""
    return sum(map(len, encode_prompt_around(backbone.chat, TEXT_IN_ONE_WORD)))


def about_to_say(model: Method, name: str, chats: Segment) -> Tensor:
    """The normed hidden state of the last token of each chat, L2-normalised, float32: (rows, dim)."""
    last = torch.full((chats.num_rows, 1), chats.mask.shape[1] - 1, device=model.backbone.device)
    with model.adapters.use(name):
        return F.normalize(model.read(chats, places=last)[:, 0].float(), dim=-1)

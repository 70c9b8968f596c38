"""Last words: what the language model is about to say of a picture or a text (E5-V, §3.1).

It is asked for one word, in the model's own chat template. The hidden state that would predict the
word is a vector to search with, without any training (arXiv 2407.12580).
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


def picture_last_words(model: Method, adapter: str, pictures: Segment) -> Tensor:
    """Read pictures' visual tokens in a chat, with an adapter: (pictures, dim) as `last_state`."""
    backbone = model.backbone
    prompts = [encode_prompt(backbone.chat, IMAGE_IN_ONE_WORD, count) for count in pictures.lengths]
    ids, mask = left_pad(prompts, backbone.device)
    return last_state(model, adapter, backbone.chat_segment(ids, mask, pictures))


def text_last_words(
    model: Method, adapter: str, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Read texts in a chat, with an adapter: (texts, dim) as `last_state`.

    Ids and mask (texts, tokens) are without BOS and padded on either side.
    """
    backbone = model.backbone

    def repeated(ids: list[int]) -> Segment:
        embedded = backbone.embed(torch.tensor([ids], device=backbone.device))
        return text_segment(embedded.expand(len(input_ids), -1, -1))

    # the chat is the same around every text; only the text has padding
    before, behind = encode_prompt_around(backbone.chat, TEXT_IN_ONE_WORD)
    text = text_segment(backbone.embed(input_ids), attention_mask)
    return last_state(model, adapter, join([repeated(before), text, repeated(behind)]))


def num_tokens_around_text(backbone: Backbone) -> int:
    """Count what is read with a text: the rest of the chat."""
    return sum(map(len, encode_prompt_around(backbone.chat, TEXT_IN_ONE_WORD)))


def last_state(model: Method, adapter: str, chats: Segment) -> Tensor:
    """Return the hidden state of each chat's last token, L2-normalised, float32: (rows, dim)."""
    last = torch.full((chats.num_rows, 1), chats.mask.shape[1] - 1, device=model.backbone.device)
    with model.adapters.use(adapter):
        return F.normalize(model.read(chats, places=last)[:, 0].float(), dim=-1)

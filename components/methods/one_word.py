"""A picture or a text as the one word that the language model is about to say of it (E5-V, arXiv 2407.12580, §3.1).

The hidden state that would predict this word is a vector to search with, without any training.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from components.methods.method import Method
from components.model.chat import encode_text
from components.model.segments import Segment, join, text_segment

IMAGE_IN_ONE_WORD = "\nSummary above image in one word:"
TEXT_IN_ONE_WORD = "\nSummary above sentence in one word:"


def in_one_word(model: Method, name: str, content: Sequence[Segment], prompt: str) -> Tensor:
    """Read [BOS; content; prompt] with the adapter of a pass; the last normed hidden state, L2-normalised, float32.

    (rows, dim). Padding in the content is masked and takes no position.
    """
    backbone = model.backbone
    ids = torch.tensor([encode_text(backbone.tokenizer, prompt)], device=backbone.device)
    rows = content[0].num_rows
    inputs = join([model.bos(rows), *content, text_segment(backbone.embed(ids).expand(rows, -1, -1))])
    last = torch.full((rows, 1), inputs.mask.shape[1] - 1, device=backbone.device)
    with model.adapters.use(name):
        return F.normalize(model.read(inputs, places=last)[:, 0].float(), dim=-1)

"""One prepared sample as the model reads it: most faults of training data show here."""

from itertools import groupby

from PIL import Image

from components.losses.autoregressive import IGNORE_INDEX
from components.methods.method import Method
from components.model.backbone import Backbone
from components.training.collate import TextParams, TrainSample, encode_chat

LEARNED = "▸{}◂"  # around the tokens that have labels


def show_sample(model: Method, sample: TrainSample, texts: TextParams) -> str:
    """Describe a conversation in lines: its token ids, text, labels, and picture."""
    backbone = model.backbone
    ids, labels = encode_chat(sample, sample.conversation, backbone.chat, model.num_summary_tokens)
    num_visual = ids.count(backbone.image_token_id)
    num_learned = sum(label != IGNORE_INDEX for label in labels)

    lines = [
        f"sample {sample.sample_id}: {len(ids)} tokens, {num_visual} of them for the picture, "
        f"{num_learned} learned"
    ]
    if isinstance(sample.image, Image.Image):
        read = backbone.encode_images(backbone.prepare([sample.image]))
        width, height = sample.image.size
        lines.append(f"picture: {width} × {height} pixels, {read.lengths[0]} image tokens")
    if len(ids) > texts.max_conversation_tokens:
        lines.append(
            f"cut after {texts.max_conversation_tokens} tokens "
            "(train.texts.max_conversation_tokens)"
        )
    lines.append(f"ids: {ids}")
    lines.append(f"text, {LEARNED.format('learned')}: {marked_text(backbone, ids, labels)}")
    return "\n".join(lines)


def marked_text(backbone: Backbone, ids: list[int], labels: list[int]) -> str:
    """Mark the learned parts of the text, and count image tokens instead of repeating them."""
    tokenizer, image_token_id = backbone.tokenizer, backbone.image_token_id
    kinds = [
        (token == image_token_id, label != IGNORE_INDEX)
        for token, label in zip(ids, labels, strict=True)
    ]

    # stretches of tokens of one kind
    parts: list[str] = []
    start = 0
    for (is_picture, is_learned), run in groupby(kinds):
        stop = start + len(list(run))
        if is_picture:
            text = f"{tokenizer.decode(ids[start : start + 1])}×{stop - start}"
        else:
            text = tokenizer.decode(ids[start:stop])
        parts.append(LEARNED.format(text) if is_learned else text)
        start = stop
    return "".join(parts)

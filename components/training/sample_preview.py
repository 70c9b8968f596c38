"""One prepared sample as the model sees it: most faults of training data show here, if somebody looks."""

from PIL import Image

from components.losses.autoregressive import IGNORE_INDEX
from components.methods.method import Method
from components.model.backbone import Backbone
from components.training.collate import TextParams, TrainSample, encode_chat

LEARNED = "▸{}◂"  # around the tokens that have labels


def show_sample(model: Method, sample: TrainSample, texts: TextParams) -> str:
    """Token ids, text and labels of a conversation; how many tokens its picture was and is. A few lines."""
    backbone = model.backbone
    ids, labels = encode_chat(sample, sample.conversation, backbone.chat, model.num_summary_tokens)
    num_visual = ids.count(backbone.image_token_id)
    num_learned = sum(label != IGNORE_INDEX for label in labels)
    lines = [
        f"sample {sample.sample_id}: {len(ids)} tokens, {num_visual} of them for the picture, {num_learned} learned"
    ]
    if isinstance(sample.image, Image.Image):
        read = backbone.encode_images(backbone.prepare([sample.image]))
        width, height = sample.image.size
        lines.append(f"picture: {width} × {height} pixels, {read.lengths[0]} image tokens")
    if len(ids) > texts.max_conversation_tokens:
        lines.append(
            f"cut after {texts.max_conversation_tokens} tokens (train.texts.max_conversation_tokens)"
        )
    return "\n".join(
        [
            *lines,
            f"ids: {ids}",
            f"text, {LEARNED.format('learned')}: {marked_text(backbone, ids, labels)}",
        ]
    )


def marked_text(backbone: Backbone, ids: list[int], labels: list[int]) -> str:
    """The text with the learned parts marked, and runs of image tokens counted instead of repeated."""
    parts: list[str] = []
    start = 0
    for stop in range(1, len(ids) + 1):
        if stop < len(ids) and _kind(backbone, ids, labels, stop) == _kind(
            backbone, ids, labels, start
        ):
            continue
        is_picture, is_learned = _kind(backbone, ids, labels, start)
        text = backbone.tokenizer.decode(ids[start : start + 1] if is_picture else ids[start:stop])
        if is_picture:
            text = f"{text}×{stop - start}"
        parts.append(LEARNED.format(text) if is_learned else text)
        start = stop
    return "".join(parts)


def _kind(backbone: Backbone, ids: list[int], labels: list[int], at: int) -> tuple[bool, bool]:
    return ids[at] == backbone.image_token_id, labels[at] != IGNORE_INDEX

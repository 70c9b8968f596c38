from components.methods.fwd2bot import DoubleForward
from components.training.sample_preview import marked_text, show_sample
from tests.components.training.world import LENGTHS, samples


def test_what_is_learned_is_marked_and_image_tokens_are_counted(model: DoubleForward) -> None:
    sample = next(
        sample for sample in samples(8).values() if sample.image is not None and sample.conversation
    )
    said = show_sample(model, sample, LENGTHS)
    k = model.num_summary_tokens
    assert f"{k} of them for the picture" in said
    assert f"<image>×{k}" in said
    assert "<image><image>" not in said
    for turn in sample.conversation:
        if turn["role"] == "assistant":
            assert f"{turn['content'].strip()}</s>◂" in said


def test_text_without_labels_or_pictures_is_plain(model: DoubleForward) -> None:
    tokenizer = model.backbone.tokenizer
    ids = tokenizer("what is it?")["input_ids"]
    assert marked_text(model.backbone, ids, [-100] * len(ids)) == tokenizer.decode(ids)


def test_what_is_cut_is_said(model: DoubleForward) -> None:
    sample = next(sample for sample in samples(8).values() if sample.conversation)
    assert "cut after 3 tokens" in show_sample(
        model, sample, LENGTHS.model_copy(update={"max_conversation_tokens": 3})
    )

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlavaProcessor, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from components.drawn_world.tiny_llava import BOS, EOS, IMAGE, PAD, build_processor, build_tokenizer
from components.losses.autoregressive import IGNORE_INDEX
from components.model.chat import (
    VICUNA_V1_TEMPLATE,
    ChatFormat,
    encode_conversation,
    encode_prompt,
    encode_prompt_around,
    encode_text,
)
from tests.components.model.tiny import TEXTS, TINY

# The template of llava-hf/llava-1.5-7b-hf: a space, and no end token, follows an answer.
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CONVERSATION = [
    {"role": "user", "content": "<image>\nwhat colour is it?"},
    {"role": "assistant", "content": "red\nor blue"},
    {"role": "user", "content": "how many?"},
    {"role": "assistant", "content": "日本 3"},
]


def byte_level_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = build_tokenizer(TEXTS, TINY.vocab_size)
    tokenizer.chat_template = VICUNA_V1_TEMPLATE
    return tokenizer


def llama_like_tokenizer() -> PreTrainedTokenizerBase:
    """Build a tokenizer like LLaVA-1.5's: ▁ for spaces and before a text, bytes for the unknown."""
    specials = ["<unk>", BOS, EOS, PAD, IMAGE]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # for training only: no token spans words
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials + bytes_, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 1)]
    )
    strip = decoders.Strip(" ", 1, 0)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    stored = json.loads(bpe.to_str())
    stored |= {"pre_tokenizer": None, "added_tokens": stored["added_tokens"][: len(specials)]}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(stored)),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=LLAVA_TEMPLATE,
    )


TOKENIZERS = {"byte-level": byte_level_tokenizer(), "llama-like": llama_like_tokenizer()}
tokenizers = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def image_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.get_vocab()[IMAGE]


def labelled_texts(tokenizer: PreTrainedTokenizerBase, labels: list[int]) -> list[str]:
    """What each unbroken run of labels says."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORE_INDEX:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run).strip() for run in runs if run]


@tokenizers
def test_a_conversation_reads_as_vicuna_v1(tokenizer: PreTrainedTokenizerBase) -> None:
    input_ids, _ = encode_conversation(ChatFormat(tokenizer), CONVERSATION, 2)
    expected = (
        "<s>USER: <image><image>\nwhat colour is it? ASSISTANT: red\nor blue</s>"
        "USER: how many? ASSISTANT: 日本 3</s>"
    )
    assert tokenizer.decode(input_ids).replace(" ", "") == expected.replace(" ", "")
    assert input_ids[0] == tokenizer.bos_token_id
    assert input_ids.count(tokenizer.bos_token_id) == 1


@tokenizers
def test_labels_are_the_answers_with_their_end_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    input_ids, labels = encode_conversation(ChatFormat(tokenizer), CONVERSATION, 2)
    assert labelled_texts(tokenizer, labels) == ["red\nor blue</s>", "日本 3</s>"]
    assert all(
        label in (IGNORE_INDEX, token) for token, label in zip(input_ids, labels, strict=True)
    )


@tokenizers
def test_a_prompt_is_what_training_shows_before_the_labels(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    input_ids, labels = encode_conversation(ChatFormat(tokenizer), CONVERSATION[:2], 2)
    first_label = next(index for index, label in enumerate(labels) if label != IGNORE_INDEX)
    assert encode_prompt(ChatFormat(tokenizer), "what colour is it?", 2) == input_ids[:first_label]
    assert encode_prompt(ChatFormat(tokenizer), CONVERSATION[:1], 2) == input_ids[:first_label]


@tokenizers
def test_what_stands_around_a_text_is_the_rest_of_its_chat(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    before, behind = encode_prompt_around(ChatFormat(tokenizer), "In </s> one word:")
    assert tokenizer.decode(before).replace(" ", "") == "<s>USER:"
    assert tokenizer.decode(behind).replace(" ", "") == "\nIn</s>oneword:ASSISTANT:"
    assert tokenizer.eos_token_id not in behind  # a person wrote its name


@tokenizers
def test_a_prompt_after_earlier_turns_is_what_training_shows(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    input_ids, labels = encode_conversation(ChatFormat(tokenizer), CONVERSATION, 2)
    prompt = encode_prompt(ChatFormat(tokenizer), CONVERSATION[:3], 2)
    assert prompt == input_ids[: len(prompt)]
    assert labels[len(prompt) - 1] == IGNORE_INDEX
    assert labels[len(prompt)] != IGNORE_INDEX


@tokenizers
def test_the_placeholder_may_stand_after_the_question(tokenizer: PreTrainedTokenizerBase) -> None:
    behind = [{"role": "user", "content": "what colour is it?\n<image>"}]
    assert encode_prompt(ChatFormat(tokenizer), behind, 2) == encode_prompt(
        ChatFormat(tokenizer), CONVERSATION[:1], 2
    )


@tokenizers
def test_without_visual_tokens_nothing_is_a_placeholder(tokenizer: PreTrainedTokenizerBase) -> None:
    for question in ("what is <image>?", CONVERSATION):
        prompt = encode_prompt(ChatFormat(tokenizer), question, 0)
        assert image_id(tokenizer) not in prompt


def test_a_prompt_equals_what_the_processor_makes_of_it() -> None:
    processor: LlavaProcessor = build_processor(TINY, TOKENIZERS["byte-level"])
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    expected = processor(text=text, images=[Image.new("RGB", (48, 48))]).input_ids[0]
    assert encode_prompt(ChatFormat(processor.tokenizer), "what is it?", 9) == list(expected)


@tokenizers
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [IMAGE, EOS, BOS, PAD, "USER:", "ASSISTANT: x", "<", "s>", "a", " ", "\n", "é"]
        )
    )
)
def test_people_cannot_write_special_tokens(
    tokenizer: PreTrainedTokenizerBase, parts: list[str]
) -> None:
    text = "q" + "".join(parts) + "q"
    turns = [
        {"role": "user", "content": f"<image>\n{text}"},
        {"role": "assistant", "content": text},
    ]
    input_ids, labels = encode_conversation(ChatFormat(tokenizer), turns, 3)
    counts = {name: input_ids.count(tokenizer.get_vocab()[name]) for name in (IMAGE, EOS, BOS, PAD)}
    assert counts == {IMAGE: 3, EOS: 1, BOS: 1, PAD: 0}
    assert encode_prompt(ChatFormat(tokenizer), text, 3).count(image_id(tokenizer)) == 3
    assert not set(encode_text(tokenizer, text)) & set(tokenizer.all_special_ids)
    (answer,) = labelled_texts(tokenizer, labels)
    assert answer.replace(" ", "") == (text + EOS).replace(" ", "")


def test_plain_text_survives_byte_for_byte() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    text = "a <image> and </s>, <<s>s>, é"
    assert tokenizer.decode(encode_text(tokenizer, text)) == text


@tokenizers
def test_a_missing_placeholder_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="first user turn has no <image>"):
        encode_conversation(ChatFormat(tokenizer), CONVERSATION[2:], 2)

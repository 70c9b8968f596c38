import pytest

from components.curation.reasons import Reason, Rejected
from components.curation.text_filters import (
    TextLimits,
    caption_of,
    check_caption,
    check_conversation,
    clean_text,
)

LIMITS = TextLimits(min_caption_characters=3, max_caption_characters=20, max_turn_characters=40)


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    "text", ["مرحبا بالعالم", "猫和狗", "👩‍👩‍👧 é e\u0301", "a\nb\tc", "<PERSON> & </s> [INST]"]
)
def test_clean_text_leaves_real_text_alone(text: str) -> None:
    assert clean_text(text) == (text, False)


@pytest.mark.parametrize("mark", ["\x00", "\x07", "\x84", "\u202e", "\u2066", "\u200b", "\ufeff"])
def test_clean_text_removes_control_characters_and_says_so(mark: str) -> None:
    assert clean_text(f" a{mark}b ") == ("ab", True)


@pytest.mark.parametrize(
    "mark", ["\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u2028", "\u2029"]
)
def test_clean_text_never_glues_words_that_a_control_parts(mark: str) -> None:
    assert clean_text(f"a dog{mark}on grass{mark}") == ("a dog on grass", True)


@pytest.mark.parametrize(
    ("mark", "kept"), [("\r", "\n"), ("\u2028", "\n"), ("\x85", "\n"), ("\x0b", " "), ("\t", "\t")]
)
def test_check_conversation_keeps_the_lines_of_other_systems(mark: str, kept: str) -> None:
    checked, repaired = check_conversation(turns("what?", f"a{mark}b"), False, LIMITS)
    assert (checked[1]["content"], repaired) == (f"a{kept}b", mark != kept)


@pytest.mark.parametrize(
    "mark",
    [
        "<video>",
        "<audio>",
        "<speech>",
        "<vid>",
        "<|video_pad|>",
        "<|AUDIO|>",
        "<video_1>",
        "<point_cloud>",
    ],
)
def test_placeholders_of_other_modalities_are_rejects_by_their_name(mark: str) -> None:
    with pytest.raises(Rejected, match="only pictures") as caught:
        check_conversation(turns(f"{mark}\nwhat?", "a cat"), False, LIMITS)
    assert caught.value.reason is Reason.OTHER_MODALITY
    with pytest.raises(Rejected):
        check_caption(f"{mark} a cat", LIMITS)


@pytest.mark.parametrize("speaker", ["system", "user", "function", None])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_turn_of_another_speaker_is_named(speaker: str | None, place: int) -> None:
    conversation = turns("q", "a")
    conversation.insert(place, {"from": speaker, "value": "be kind"})  # type: ignore[dict-item]
    with pytest.raises(Rejected, match=f"turn {place} is from {speaker!r}; only human and gpt"):
        check_conversation(conversation, False, LIMITS)


def test_clean_text_takes_the_line_ends_of_other_systems_without_a_repair() -> None:
    assert clean_text("a\r\nb") == ("a\nb", False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("\ud83d", Reason.BAD_ENCODING), (7, Reason.BAD_RECORD), (None, Reason.BAD_RECORD)],
)
def test_clean_text_rejects_what_is_no_text(text: object, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        clean_text(text)
    assert caught.value.reason is reason


def test_check_conversation_translates_the_roles_and_keeps_the_placeholder() -> None:
    checked, repaired = check_conversation(
        turns("<image>\nwhat?", "a cat", "sure?", "yes"), True, LIMITS
    )
    assert [turn["role"] for turn in checked] == ["user", "assistant", "user", "assistant"]
    assert checked[0]["content"] == "<image>\nwhat?"
    assert not repaired


@pytest.mark.parametrize(
    ("conversation", "has_picture", "reason"),
    [
        (None, False, Reason.BAD_CONVERSATION),
        ([], False, Reason.BAD_CONVERSATION),
        (turns("q"), False, Reason.BAD_CONVERSATION),
        (turns("q", "a")[::-1], False, Reason.BAD_CONVERSATION),
        ([{"from": "human"}, {"from": "gpt", "value": "a"}], False, Reason.BAD_CONVERSATION),
        ([{"from": "human", "value": "q"}] * 2, False, Reason.BAD_CONVERSATION),
        ([7, 8], False, Reason.BAD_CONVERSATION),
        (turns("q", "\x00 "), False, Reason.EMPTY_TEXT),
        (turns("<image>", "a"), True, Reason.EMPTY_TEXT),
        (turns("q", "a" * 41), False, Reason.TEXT_TOO_LONG),
        (turns("q", "a"), True, Reason.PLACEHOLDER_MISMATCH),
        (turns("<image> q", "a"), False, Reason.PLACEHOLDER_MISMATCH),
        (turns("<image><image> q", "a"), True, Reason.PLACEHOLDER_MISMATCH),
        (turns("<image> q", "a <image>"), True, Reason.PLACEHOLDER_MISMATCH),
        (turns("q", "a", "<image> q", "a"), True, Reason.PLACEHOLDER_MISMATCH),
    ],
)
def test_check_conversation_rejects(
    conversation: object, has_picture: bool, reason: Reason
) -> None:
    with pytest.raises(Rejected) as caught:
        check_conversation(conversation, has_picture, LIMITS)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY_CAPTION),
        (" \n\u200b", Reason.EMPTY_CAPTION),
        ("ab", Reason.EMPTY_CAPTION),
        ("a" * 21, Reason.TEXT_TOO_LONG),
        ("see <image>", Reason.PLACEHOLDER_MISMATCH),
    ],
)
def test_check_caption_rejects(text: str, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        check_caption(text, LIMITS)
    assert caught.value.reason is reason


def test_caption_of_takes_the_answer_to_a_known_prompt_only() -> None:
    prompts = ("describe.",)
    known, _ = check_conversation(turns("describe.\n<image>", "a cat"), True, LIMITS)
    other, _ = check_conversation(turns("<image>\nwhat?", "a cat"), True, LIMITS)
    last, _ = check_conversation(
        turns("<image>\nwhat?", "a pet", "describe.", "a cat"), True, LIMITS
    )
    long, _ = check_conversation(turns("<image>\ndescribe.", "a cat " * 5), True, LIMITS)
    found = [caption_of(rows, prompts, LIMITS) for rows in (known, other, last, long)]
    assert found == ["a cat", None, "a cat", None]

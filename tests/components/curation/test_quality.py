import pytest

from components.curation.quality import CaptionQuality, check_quality, script_of
from components.curation.reasons import Reason, Rejected

STRICT = CaptionQuality(
    min_words=3,
    min_letter_share=0.6,
    max_word_share=0.5,
    scripts=("LATIN",),
    min_script_share=0.8,
    max_rows_per_caption=None,
)
LAX = STRICT.model_copy(
    update={
        "min_words": 1,
        "min_letter_share": 0.0,
        "max_word_share": 1.0,
        "scripts": (),
        "min_script_share": 0.0,
    }
)


@pytest.mark.parametrize(
    ("caption", "reason", "said"),
    [
        ("a red bus in the street", None, ""),
        ("élève à l'école — naïve café", None, ""),
        ("e\u0301le\u0300ve a\u0300 table", None, ""),  # accents that stand apart
        ("the the cat sat", None, ""),  # half of the words
        ("red bus", Reason.LOW_QUALITY, "2 words"),
        ("IMG_20190401 _ 0001.JPG 100%", Reason.LOW_QUALITY, "characters are letters"),
        ("$ 12.99 - 50 % !!!", Reason.LOW_QUALITY, "0 of 13 characters are letters"),
        ("buy buy Buy now", Reason.LOW_QUALITY, "3 of 4 words are 'buy'"),
        ("красный автобус на улице", Reason.OTHER_SCRIPT, "0 of 21 letters are LATIN"),
        ("a red автобус улица город", Reason.OTHER_SCRIPT, "4 of 21 letters"),
    ],
)
def test_each_sign_has_its_threshold(caption: str, reason: Reason | None, said: str) -> None:
    check_quality(caption, LAX)
    if reason is None:
        check_quality(caption, STRICT)
        return
    with pytest.raises(Rejected) as caught:
        check_quality(caption, STRICT)
    assert caught.value.reason is reason
    assert said in caught.value.detail


def test_scripts_have_the_names_of_unicode() -> None:
    letters = {
        "a": "LATIN",
        "я": "CYRILLIC",
        "红": "CJK",
        "ا": "ARABIC",
        "ひ": "HIRAGANA",
        "\ue000": "UNNAMED",
    }
    assert {letter: script_of(letter) for letter in letters} == letters

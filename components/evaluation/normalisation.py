"""Answer normalisation of the VQA family, rule by rule as the TextVQA (m4c) scorer publishes it.

A pre-step, a punctuation step and a digit-and-article step, oddities included, so that scores on
the real benchmarks compare with published ones. Spelling is left alone: "grey" and "gray" are two
answers.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# the published code passes a regex flag (32) where the count of replacements belongs
_MAX_PERIODS = 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_DIGITS = dict(zip(_NUMBER_WORDS.split(), map(str, range(11)), strict=True)) | {"none": "0"}
_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's isn't it'd it'll ma'am might've mightn't must've mustn't needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
    something'd something'll that's there'd there're there's they'd they'll they're they've 'twas
    wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
    who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_DOUBLY_CONTRACTED = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
    someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll
    y'all'd've 'ow's'at
"""


_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}
# of two apostrophes either may be missing
for _word in _DOUBLY_CONTRACTED.split():
    for _mark in re.finditer("'", _word):
        _CONTRACTIONS[_word[: _mark.start()] + _word[_mark.end() :]] = _word
_CONTRACTIONS["somebody'd"] = "somebodyd"


def normalise_answer(answer: str) -> str:
    """Return the form in which an answer and its references are compared; may be empty."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    return normalise_core(text)


def normalise_core(text: str) -> str:
    """Apply the punctuation step, then the digit-and-article step.

    The official VQA script does these without the pre-step.
    """
    words = []
    for word in _without_punctuation(text).lower().split():
        word = _DIGITS.get(word, word)
        if word not in _ARTICLES:
            words.append(_CONTRACTIONS.get(word, word))
    return " ".join(words)


def _without_punctuation(text: str) -> str:
    has_digit_comma = re.search(r"\d,\d", text) is not None
    result = text

    # A mark beside a space vanishes; one between two words parts them.
    for mark in _PUNCTUATION:
        is_spaced = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_spaced or has_digit_comma else " ")
    return re.sub(r"\.(?!\d)", "", result, count=_MAX_PERIODS)

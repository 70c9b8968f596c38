import pytest

from components.evaluation.normalisation import normalise_answer, normalise_core


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Two dogs.", "2 dogs"),
        ("100,978", "100978"),
        ("red-white", "red white"),
        ("red - white", "red white"),
        ("2,500-3", "2500 3"),
        ("it's", "it 's"),
        ("girl's", "girl 's"),
        ("a.m.", "am"),
        ("x.y", "xy"),
        ("12.00", "12.00"),
        ("5.", "5"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("1/2", "1 2"),
        ("a/b c", "b c"),
        ("5:30 pm", "5:30 pm"),
        ("$3.50", "$3.50"),
        ("50%", "50%"),
        ("none", "0"),
        ("twenty", "twenty"),
        ("Ten!", "10"),
        ("a", ""),
        ("the", ""),
        ("...", ""),
        ("  Red\n", "red"),
        ("dont", "don't"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("yall'dve", "yall'dve"),
        ("y'alldve", "y'alldve"),
        ("yall'd've", "y'all'd've"),
        ("'ows'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("grey", "grey"),
        ("gray", "gray"),
    ],
)
def test_normalise_answer_follows_the_published_rules(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("2,500-3", "25003"), ("it's", "it's"), ("girl's", "girl's")]
)
def test_the_core_differs_where_the_pre_step_is_missing(text: str, expected: str) -> None:
    assert normalise_core(text) == expected


def test_at_most_32_periods_are_removed() -> None:
    assert normalise_answer("x" + "." * 40) == "x" + "." * 8

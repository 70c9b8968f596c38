"""Pieces of work: as text and back, and what they count."""

from components.curation.pieces import Work, count_rows_in, decode_work, encode_work
from components.curation.training_sources import Piece

WORK = [
    Work(0, "instruct", 7, Piece("entries", "/staging/rows/instruct/0.json", 0, 7)),
    Work(1, "captions", None, Piece("tar", 's3://bucket/ü " 1.tar', 0, None)),
    Work(2, "instruct", 2, Piece("entries", "/staging/rows/instruct/1.json", 0, 2)),
    Work(3, "evaluation/test/pictures", 2, None, ("a.jpg", "b.jpg")),
]


def test_work_survives_the_way_to_another_process() -> None:
    assert [decode_work(encode_work(piece)) for piece in WORK] == WORK


def test_rows_are_counted_by_the_listing_or_else_by_their_reader_and_empty_sources_too() -> None:
    # one row of task 2 was lost on the way: the listing knows better
    found = {0: 7, 1: 5, 2: 1, 3: 2}
    counts = count_rows_in(WORK, found, ["instruct", "captions", "nothing"])
    assert counts == {"instruct": 9, "captions": 5, "nothing": 0, "evaluation/test/pictures": 2}

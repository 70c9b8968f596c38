"""Which rows have two texts, and what the other one is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components import schema
from components.model.chat import encode_text
from components.training.budgets import all_tokens
from components.training.collate import TrainSample, collate
from components.training.sampler import StepSamples
from components.training.samples import SampleTable, write_sample_file
from components.training.text_pairs import as_text_pair, other_text
from tests.components.model.tiny import load
from tests.components.training.world import LENGTHS, sample_rows, samples

CAPTION = "a red circle"
DESCRIBED = [
    ("<image>\nwhat shape is it?", "circle"),
    ("which colour?", "red "),
    ("describe it.", CAPTION),
]


def turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    ]


def test_the_other_text_is_all_but_the_caption() -> None:
    assert other_text(turns(DESCRIBED), CAPTION) == "what shape is it? circle which colour? red"
    assert other_text(turns(DESCRIBED[2:]), CAPTION) == ""
    assert other_text([], CAPTION) == ""


def test_a_text_pair_has_no_picture() -> None:
    sample = as_text_pair(
        TrainSample("s", torch.zeros(1), turns(DESCRIBED), CAPTION, known_phrases=["a blue circle"])
    )
    assert (sample.image, sample.conversation) == (None, [])
    assert (sample.caption, sample.known_phrases) == (CAPTION, ["a blue circle"])
    assert sample.premise == "what shape is it? circle which colour? red"


def table_of(rows: list[dict[str, Any]], folder: Path) -> SampleTable:
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(
            pa.Table.from_pylist(part, schema=schema.SAMPLES), folder / f"part-{number}.parquet"
        )
    write_sample_file(sorted(folder.glob("*.parquet")), folder / "samples.arrow")
    return SampleTable(folder / "samples.arrow")


def test_rows_with_two_texts_are_those_that_give_one(tmp_path: Path) -> None:
    rows = sample_rows(10)
    rows[1] |= {schema.CONVERSATION: turns(DESCRIBED), schema.CAPTION: CAPTION}
    rows[5] |= {schema.CONVERSATION: turns(DESCRIBED[2:]), schema.CAPTION: CAPTION}
    table = table_of(rows, tmp_path)
    expected = [
        row[schema.CAPTION] is not None
        and bool(other_text(row[schema.CONVERSATION], row[schema.CAPTION]))
        for row in rows
    ]
    assert table.has_other_text.tolist() == expected
    assert (expected[1], expected[5]) == (True, False)
    assert as_text_pair(table.texts(1)).premise == "what shape is it? circle which colour? red"


def test_a_batch_of_texts_has_no_pictures_and_pairs_of_equal_number(llava_folder: Path) -> None:
    backbone = load(llava_folder)
    table = {index: as_text_pair(sample) for index, sample in samples(7).items()}
    texts = LENGTHS.model_copy(update={"hard_negatives": (("red", "green"),)})
    batch = collate(table, StepSamples((), (0, 5, 6)), backbone, all_tokens(1), texts)
    assert (batch.num_pictures, batch.num_pairs, len(batch.hard_negatives)) == (0, 3, 3)
    assert len(batch.caption_pictures) == 0
    ids = [
        row[mask.bool()].tolist()
        for row, mask in zip(batch.premises.ids, batch.premises.mask, strict=True)
    ]
    words = [encode_text(backbone.tokenizer, table[index].premise or "") for index in (0, 5, 6)]
    assert ids == [row[: texts.max_caption_tokens] for row in words]

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import schema

TABLES = {
    "samples": schema.SAMPLES,
    "images": schema.IMAGES,
    "questions": schema.QUESTIONS,
    "captions": schema.IMAGE_CAPTIONS,
    "compositionality": schema.COMPOSITIONALITY,
    "queries": schema.QUERIES,
    "rejects": schema.REJECTS,
    "compressed": schema.compressed(4, 8, pa.float16(), 0),
    "compressed with scales": schema.compressed(4, 8, pa.int8(), 1),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_survives_parquet_with_its_types(name: str) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(TABLES[name].empty_table(), buffer)
    assert pq.read_schema(pa.BufferReader(buffer.getvalue())).equals(TABLES[name])


def test_samples_hold_a_text_only_row_and_a_pure_caption_row() -> None:
    shared = {
        "source": "instruct",
        "split": "train",
        "image_sha256": None,
        "width": None,
        "height": None,
    }
    turns = [{"role": schema.USER, "content": "hello"}, {"role": schema.ASSISTANT, "content": "hi"}]
    rows = [
        {"sample_id": "a", "image": None, "conversation": turns, "caption": None, **shared},
        {
            "sample_id": "b",
            "image": b"png",
            "conversation": [],
            "caption": "a red circle",
            **shared,
        },
    ]
    table = pa.Table.from_pylist(rows, schema=schema.SAMPLES)
    table.validate(full=True)
    assert table.column(schema.CONVERSATION).to_pylist() == [turns, []]


def test_compressed_tokens_are_lists_of_one_length() -> None:
    tokens = schema.compressed(4, 8, pa.float16(), 0).field(schema.SUMMARY_TOKENS).type
    assert tokens.list_size == 4 * 8
    assert tokens.value_type == pa.float16()


def test_only_a_codec_with_scales_has_a_column_of_them() -> None:
    assert schema.SCALES not in schema.compressed(4, 8, pa.float16(), 0).names
    scales = schema.compressed(4, 8, pa.int8(), 2).field(schema.SCALES).type
    assert scales.list_size == 4 * 2
    assert scales.value_type == pa.float32()

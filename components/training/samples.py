"""The curated training samples as one file with random access.

Parquet is read in blocks, a shuffled training step wants single rows from everywhere. The columns
that training needs are copied once to an uncompressed Arrow file, which all workers of a machine
map into memory: opening it costs nothing, and its pages are shared.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from components import schema
from components.pictures import PictureLimits, decode_picture
from components.training.collate import TrainSample
from components.training.feature_cache import FeatureCache
from components.training.text_pairs import has_other_text

COLUMNS = [
    schema.SAMPLE_ID,
    schema.IMAGE,
    schema.IMAGE_SHA256,
    schema.CONVERSATION,
    schema.CAPTION,
    schema.PHRASES,
]
ROWS_PER_BATCH = 256  # bounds the memory of the copy


def write_sample_file(shards: Iterable[Path], output: Path) -> None:
    """Copy Parquet shards, in this order, to an Arrow file that appears whole or not at all."""
    stored = pa.schema([schema.SAMPLES.field(name) for name in COLUMNS])
    partial = output.with_name(output.name + ".partial")
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, stored) as writer:
        for shard in shards:
            for batch in pq.ParquetFile(shard).iter_batches(ROWS_PER_BATCH, columns=COLUMNS):
                writer.write_batch(batch.select(COLUMNS).cast(stored))
    os.replace(partial, output)


class SampleTable:
    """The rows of a sample file, by position."""

    def __init__(self, path: Path) -> None:
        self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def has_conversation(self) -> np.ndarray:
        """Flag the samples with a conversation: (rows,) bool."""
        return pc.greater(pc.list_value_length(self.table[schema.CONVERSATION]), 0).to_numpy()

    @property
    def has_caption(self) -> np.ndarray:
        """Flag the samples with a caption and its picture: (rows,) bool."""
        has_image = pc.is_valid(self.table[schema.IMAGE])
        return pc.and_(has_image, pc.is_valid(self.table[schema.CAPTION])).to_numpy()

    @property
    def has_other_text(self) -> np.ndarray:
        """Flag the samples with a caption and another text about the picture: (rows,) bool."""
        return np.concatenate([has_other_text(batch) for batch in self.table.to_batches()])

    @property
    def all_phrases(self) -> frozenset[str]:
        """The phrases of all rows, each once."""
        return frozenset(pc.unique(pc.list_flatten(self.table[schema.PHRASES])).to_pylist())

    @property
    def text_lengths(self) -> np.ndarray:
        """Count the characters of conversations, else of captions: (rows,) int64."""
        return np.concatenate([_text_lengths(batch) for batch in self.table.to_batches()])

    @property
    def first_of_pictures(self) -> dict[str, int]:
        """Map the SHA-256 of each picture's pixels, sorted, to the first row that has it."""
        first: dict[str, int] = {}
        for row, pixel_sha256 in enumerate(self.table[schema.IMAGE_SHA256].to_pylist()):
            if pixel_sha256:
                first.setdefault(pixel_sha256, row)
        return dict(sorted(first.items()))

    def texts(self, index: int) -> TrainSample:
        """Return one row without its picture, which is not decoded."""
        return TrainSample(
            self._value(schema.SAMPLE_ID, index),
            None,
            self._value(schema.CONVERSATION, index),
            self._value(schema.CAPTION, index),
            self._value(schema.IMAGE_SHA256, index),
            self._value(schema.PHRASES, index),
        )

    def sample(self, index: int, limits: PictureLimits) -> TrainSample:
        """Return one row with its picture decoded, if it has one.

        Raises ValueError naming the sample whose picture is damaged.
        """
        sample = self.texts(index)
        if self._value(schema.IMAGE_SHA256, index) is None:
            return sample
        return sample._replace(image=self.picture(index, limits))

    def encoded_sample(self, index: int, cache: FeatureCache) -> TrainSample:
        """Return one row with the vision features of its picture, which the cache must have."""
        sample = self.texts(index)
        pixel_sha256 = self._value(schema.IMAGE_SHA256, index)
        return sample if pixel_sha256 is None else sample._replace(image=cache.read(pixel_sha256))

    def picture(self, index: int, limits: PictureLimits) -> Image.Image:
        """Decode the picture of a row that has one.

        Raises ValueError naming the sample whose picture is damaged.
        """
        try:
            return decode_picture(self._value(schema.IMAGE, index), limits)
        except ValueError as error:
            sample_id = self._value(schema.SAMPLE_ID, index)
            raise ValueError(
                f"sample {sample_id}: {error}; was data/curated changed by hand? run curate again"
            ) from error

    def _value(self, column: str, index: int) -> Any:
        return self.table[column][index].as_py()


def _text_lengths(batch: pa.RecordBatch) -> np.ndarray:
    # characters of each turn, summed by the row that the turn belongs to
    conversations = batch[schema.CONVERSATION]
    turns = pc.struct_field(pc.list_flatten(conversations), schema.CONTENT)
    characters = pc.utf8_length(turns).to_numpy()
    rows = pc.list_parent_indices(conversations).to_numpy()
    lengths = np.bincount(rows, weights=characters, minlength=batch.num_rows).astype(np.int64)

    captions = pc.fill_null(pc.utf8_length(batch[schema.CAPTION]), 0).to_numpy()
    return np.where(lengths > 0, lengths, captions)

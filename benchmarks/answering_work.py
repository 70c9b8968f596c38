"""Questions on which answering is measured, and the operations that both ways must take.

For `answering.py`.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from peft import PeftModel
from PIL import Image

from benchmarks.workloads import ROOT, TINY_BASE, large_model, words
from components import schema
from components.costs.corpus_plan import encoding_flops
from components.costs.training_costs import ModelShape, Pass, forward_flops
from components.methods.checkpoint import load_compressor
from components.model.adapters import GENERATION
from components.model.backbone import Backbone
from components.model.generation import LEAST_OPEN
from components.model.loading import load_backbone
from components.presets import load_preset
from components.store.store_reader import StoreReader
from components.training.training_settings import TrainParams

COMPRESSOR, STORE, CURATED = (
    ROOT / "models/compressor",
    ROOT / "data/compressed/test",
    ROOT / "data/curated",
)
NUM_SUMMARY_TOKENS = 16  # of the preset without a store
QUESTION_WORDS = 9  # about 20 tokens with the demo's tokenizer


class Work(NamedTuple):
    """Questions about pictures, and the two models that are asked."""

    answerer: Backbone  # the adapter of the generation pass is merged
    plain: Backbone  # the uncompressed model
    # picture ids -> (pictures, summary tokens, dim)
    read_tokens: Callable[[Sequence[str]], np.ndarray]
    pictures: dict[str, bytes]  # by id, encoded
    image_ids: list[str]  # of each question
    questions: list[str]
    # least and most of an answer; least for the plain way only: a random model never ends by itself
    new_tokens: tuple[int, int]


class SharedReading(NamedTuple):
    """The part of the prompts that is not read for every question."""

    lead: int  # tokens before the picture, read once
    shared: int  # tokens up to the question; those after `lead` are read once per picture
    pictures: int


def demo_work(num_questions: int, per_picture: int, max_new_tokens: int) -> Work:
    """Load the demo: `per_picture` questions about each test picture, tokens from `compress`."""
    # Questions by picture, of pictures that are in the store.
    for folder in (COMPRESSOR, STORE, CURATED):
        if not folder.is_dir():
            raise SystemExit(f"answering: {folder}: is not there; `make repro` makes it")
    store, device = StoreReader.open(STORE), torch.device("cpu")
    asked: dict[str, list[str]] = {}
    for row in pq.read_table(CURATED / "questions" / "test.parquet").to_pylist():
        asked.setdefault(row[schema.IMAGE_ID], []).append(row[schema.QUESTION])
    pairs: list[tuple[str, str]] = []
    for image_id in filter(asked.__contains__, store.ids):
        pairs += [(image_id, question) for question in asked[image_id][:per_picture]]
    image_ids, questions = map(list, zip(*pairs[:num_questions], strict=True))

    # The pictures themselves, for the plain way.
    columns = [schema.IMAGE_ID, schema.IMAGE]
    rows = pq.read_table(CURATED / "images" / "test", columns=columns).to_pylist()
    pictures = {row[schema.IMAGE_ID]: row[schema.IMAGE] for row in rows}

    # Two copies of the base: one with the adapter in its weights, one as it is.
    compressor = load_compressor(COMPRESSOR, str(TINY_BASE), device, torch.float32)
    compressor.adapters.merge(GENERATION)
    plain = load_backbone(str(TINY_BASE), None, torch.float32, "sdpa", pad_to_square=True).eval()
    most = (1, max_new_tokens)
    return Work(compressor.backbone, plain, store.tokens, pictures, image_ids, questions, most)


def large_work(num_questions: int, per_picture: int, max_new_tokens: int) -> Work:
    """Build the shape of LLaVA-1.5-7B with random weights in bfloat16, and noise to ask about.

    Untrained adapters are the identity, so that both ways ask one copy of the weights.
    """
    params = load_preset("train", TrainParams, "llava-1.5-7b", ROOT)
    model = large_model(params).eval()
    model.adapters.merge(GENERATION)

    # Pictures and tokens are kept in memory: a disk would be measured otherwise.
    rng = np.random.default_rng(0)
    num_pictures = math.ceil(num_questions / per_picture)
    pictures = {f"{number:06d}": noise_jpeg(rng) for number in range(num_pictures)}
    tokens = {image_id: noise_tokens(rng, model.backbone.dim) for image_id in pictures}
    image_ids = np.repeat(list(pictures), per_picture).tolist()[:num_questions]
    questions = [words(rng, QUESTION_WORDS) for _ in image_ids]

    def read_tokens(ids: Sequence[str]) -> np.ndarray:
        return np.stack([tokens[image_id] for image_id in ids]).astype(np.float32)

    least = (max_new_tokens, max_new_tokens)
    return Work(model.backbone, model.backbone, read_tokens, pictures, image_ids, questions, least)


def noise_jpeg(rng: np.random.Generator) -> bytes:
    """Encode a picture of noise, in the size that LLaVA-1.5 reads, in pixels."""
    stream = io.BytesIO()
    pixels = rng.integers(0, 256, (336, 336, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def noise_tokens(rng: np.random.Generator, dim: int) -> np.ndarray:
    """Draw the summary tokens of a picture, (NUM_SUMMARY_TOKENS, dim), as a store keeps them."""
    return rng.standard_normal((NUM_SUMMARY_TOKENS, dim), np.float32).astype(np.float16)


def peft_model(compressor: Path) -> PeftModel:
    """Load the demo's base with the generation adapter as PEFT itself loads and runs it."""
    base = load_backbone(str(TINY_BASE), None, torch.float32, "sdpa", pad_to_square=True)
    return PeftModel.from_pretrained(base.vlm, compressor / "generation").eval()


def read_flops(shape: ModelShape, rows: int, past: int, tokens: int, kept: int) -> int:
    """Count the operations of reading `tokens` more of every row behind `past` cached ones.

    `kept` of them go through all of the last layer.
    """
    queries = rows * ((shape.num_layers - 1) * tokens + kept)
    attention = 4 * queries * past * shape.num_heads * shape.head_dim
    return forward_flops(shape, Pass(rows, tokens, kept)) + attention


def ours_flops(
    shape: ModelShape,
    lengths: Sequence[int],
    answers: Sequence[int],
    reading: SharedReading,
    batch: int,
) -> int:
    """Count the operations of answering from stored tokens.

    `lengths`: tokens of each prompt; `answers`: forward passes of each answer.
    """
    lead, shared, pictures = reading
    total = read_flops(shape, 1, 0, lead, 0) + read_flops(shape, pictures, lead, shared - lead, 0)
    for rows in batches(lengths, batch):
        num_rows = len(rows)
        width = max(lengths[row] for row in rows) - shared
        total += read_flops(shape, num_rows, shared, width, 1) + head_flops(shape, num_rows)

        # Rows that have ended are dropped from the batch once few are open.
        for step in range(1, max(answers[row] for row in rows)):
            num_open = sum(answers[row] > step for row in rows)
            num_rows = num_open if num_open < LEAST_OPEN * num_rows else num_rows
            past = shared + width + step - 1
            total += read_flops(shape, num_rows, past, 1, 1) + head_flops(shape, num_rows)
    return total


def plain_flops(
    shape: ModelShape, lengths: Sequence[int], answers: Sequence[int], batch: int
) -> int:
    """Count the operations of the plain way: vision side and complete prompt for each question.

    A batch goes on until its last answer has ended.
    """
    total = 0
    for rows in batches(lengths, batch):
        width, count = max(lengths[row] for row in rows), len(rows)
        total += count * encoding_flops(shape) + read_flops(shape, count, 0, width, width)
        steps = max(answers[row] for row in rows)
        for step in range(steps - 1):
            total += read_flops(shape, count, width + step, 1, 1)
        total += steps * head_flops(shape, count)
    return total


def head_flops(shape: ModelShape, rows: int) -> int:
    """Count the operations of the LM head at one position of each row."""
    return 2 * rows * shape.dim * shape.vocab_size


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield rows in batches of like length, as both ways take them."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))

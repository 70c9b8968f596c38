"""What answering is measured on, and the operations that both ways must take; see `answering.py`."""

import io
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
from components.answering.decoding import LEAST_OPEN
from components.costs.corpus_plan import encoding_flops
from components.costs.training_costs import ModelShape, Pass, forward_flops
from components.methods.checkpoint import load_compressor
from components.model.adapters import GENERATION
from components.model.backbone import Backbone
from components.model.loading import load_backbone
from components.presets import load_preset
from components.store.token_store import TokenStore
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
    # least (plain way only: a random model never ends by itself) and most per answer
    new_tokens: tuple[int, int]


def demo_work(num_questions: int, per_picture: int, max_new_tokens: int) -> Work:
    """The test pictures of the demo, `per_picture` questions about each, from the store that `compress` wrote."""
    for folder in (COMPRESSOR, STORE, CURATED):
        if not folder.is_dir():
            raise SystemExit(f"answering: {folder}: is not there; `make repro` makes it")
    store, device = TokenStore.open(STORE), torch.device("cpu")
    asked: dict[str, list[str]] = {}
    for row in pq.read_table(CURATED / "questions" / "test.parquet").to_pylist():
        asked.setdefault(row[schema.IMAGE_ID], []).append(row[schema.QUESTION])
    chosen = [image_id for image_id in store.ids if image_id in asked][
        : -(-num_questions // per_picture)
    ]
    table = pq.read_table(
        CURATED / "images" / "test", columns=[schema.IMAGE_ID, schema.IMAGE]
    ).to_pylist()
    pictures = {row[schema.IMAGE_ID]: row[schema.IMAGE] for row in table}
    pairs = [(image_id, text) for image_id in chosen for text in asked[image_id][:per_picture]][
        :num_questions
    ]
    compressor = load_compressor(COMPRESSOR, str(TINY_BASE), device, torch.float32)
    compressor.adapters.merge(GENERATION)
    plain = load_backbone(str(TINY_BASE), None, torch.float32, "sdpa", pad_to_square=True).eval()
    image_ids, questions = (list(column) for column in zip(*pairs, strict=True))
    return Work(
        compressor.backbone,
        plain,
        store.tokens,
        pictures,
        image_ids,
        questions,
        (1, max_new_tokens),
    )


def large_work(num_questions: int, per_picture: int, max_new_tokens: int) -> Work:
    """The exact shape of LLaVA-1.5-7B with random weights in bfloat16; pictures and tokens of noise, from memory.

    Untrained adapters are the identity, so that both ways ask one copy of the weights.
    """
    params = load_preset("train", TrainParams, "llava-1.5-7b", ROOT)
    model = large_model(params).eval()
    model.adapters.merge(GENERATION)
    rng = np.random.default_rng(0)
    pictures = {
        f"{number:06d}": noise_jpeg(rng) for number in range(-(-num_questions // per_picture))
    }
    tokens = {image_id: noise_tokens(rng, model.backbone.dim) for image_id in pictures}
    image_ids = [image_id for image_id in pictures for _ in range(per_picture)][:num_questions]
    questions = [words(rng, QUESTION_WORDS) for _ in image_ids]

    def read_tokens(ids: Sequence[str]) -> np.ndarray:
        return np.stack([tokens[image_id] for image_id in ids]).astype(np.float32)

    least = (max_new_tokens, max_new_tokens)
    return Work(model.backbone, model.backbone, read_tokens, pictures, image_ids, questions, least)


def noise_jpeg(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (336, 336, 3), dtype=np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def noise_tokens(rng: np.random.Generator, dim: int) -> np.ndarray:
    return rng.standard_normal((NUM_SUMMARY_TOKENS, dim), np.float32).astype(np.float16)


def peft_model(compressor: Path) -> PeftModel:
    """The demo's base with the generation adapter as PEFT itself loads and runs it."""
    base = load_backbone(str(TINY_BASE), None, torch.float32, "sdpa", pad_to_square=True)
    return PeftModel.from_pretrained(base.vlm, compressor / "generation").eval()


def read_flops(shape: ModelShape, rows: int, past: int, tokens: int, kept: int) -> int:
    """Operations of reading `tokens` more of every row behind `past`; `kept` go through the whole last layer."""
    seen = (
        4
        * rows
        * past
        * shape.num_heads
        * shape.head_dim
        * ((shape.num_layers - 1) * tokens + kept)
    )
    return forward_flops(shape, Pass(rows, tokens, kept)) + seen


def ours_flops(
    shape: ModelShape,
    lengths: Sequence[int],
    answers: Sequence[int],
    lead: int,
    shared: int,
    pictures: int,
    batch: int,
) -> int:
    """Operations of all answers; `lengths` of the prompts in tokens, `answers` the forward passes each answer takes.

    `lead` tokens are read once, the rest of `shared` once per picture, what is left of a prompt
    once.
    """
    total = read_flops(shape, 1, 0, lead, 0) + read_flops(shape, pictures, lead, shared - lead, 0)
    for rows in batches(lengths, batch):
        width = max(lengths[row] for row in rows) - shared
        total += read_flops(shape, len(rows), shared, width, 1) + head_flops(shape, len(rows))
        num_rows = len(rows)
        for step in range(1, max(answers[row] for row in rows)):
            num_open = sum(answers[row] > step for row in rows)
            num_rows = num_open if num_open < LEAST_OPEN * num_rows else num_rows
            total += read_flops(shape, num_rows, shared + width + step - 1, 1, 1) + head_flops(
                shape, num_rows
            )
    return total


def plain_flops(
    shape: ModelShape, lengths: Sequence[int], answers: Sequence[int], batch: int
) -> int:
    """Operations of the plain way: vision side and whole prompt for each question, batches until the last has ended."""
    total = 0
    for rows in batches(lengths, batch):
        width, count = max(lengths[row] for row in rows), len(rows)
        total += count * encoding_flops(shape) + read_flops(shape, count, 0, width, width)
        steps = max(answers[row] for row in rows)
        total += sum(read_flops(shape, count, width + step, 1, 1) for step in range(steps - 1))
        total += steps * head_flops(shape, count)
    return total


def head_flops(shape: ModelShape, rows: int) -> int:
    return 2 * rows * shape.dim * shape.vocab_size


def batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Rows in batches of like length, as both ways take them."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    yield from (order[start : start + batch_size] for start in range(0, len(order), batch_size))

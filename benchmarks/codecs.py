"""What each codec costs and saves: bytes per picture, answers, search, and decoding, from one store.

    python -m benchmarks.codecs

Reads what `dvc repro evaluate` left: the curated demo world, the compressor and the store. Every codec gets the stored
tokens; questions, captions, model and scoring are those of `evaluate`.
"""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from components.compression import codecs
from components.compression.identity import find_base
from components.compression.store import TokenStore, normalise
from components.evaluation import scorecard
from components.evaluation.answering import COMPRESSED, compressed_reader
from components.evaluation.exam import Exam, read_exam
from components.evaluation.examination import Sitting, answer_questions, embed_texts
from components.model.checkpoint import load_compressor
from components.model.double_forward import DoubleForward
from components.model.segments import text_segment
from components.params import load_params
from flows.evaluate import EvaluateParams

CURATED, COMPRESSOR, STORE = Path("data/curated"), Path("models/compressor"), Path("data/compressed/test")
REPEATS = 5  # of decoding


class Row(NamedTuple):
    """A line of the table."""

    codec: codecs.Codec
    num_bytes: int  # per picture, before the file is compressed
    error: float  # of the tokens, relative
    short_answers: float
    image_to_text: float  # R@1
    text_to_image: float  # R@1
    decoded: float  # pictures per second, one thread


def main() -> None:
    torch.set_num_threads(1)
    params = load_params("evaluate", EvaluateParams)
    exam, store = read_exam(CURATED, params.split), TokenStore.open(STORE)
    provenance = store.provenance
    base = find_base(COMPRESSOR, None)
    model = load_compressor(COMPRESSOR, base, torch.device("cpu"), torch.float32, provenance.num_summary_tokens)
    image_ids = [image_id for image_id in exam.image_ids if image_id in store]
    tokens = store.tokens(image_ids)
    records = embed_texts(COMPRESSED, model, exam.texts(params.captions_per_picture), params.exam)
    texts = {record.key: np.array(record.embedding, np.float32) for record in records}
    print(
        "| codec | bytes per picture | error | short answers | R@1 picture to text | R@1 text to picture | decoded/s |"
    )
    print("|---|---|---|---|---|---|---|")
    for codec in codecs.CODECS:
        row = measure(codec, tokens, image_ids, texts, exam, model, params)
        print(
            f"| {row.codec} | {row.num_bytes} | {row.error:.3f} | {row.short_answers:.3f} | {row.image_to_text:.3f} | "
            f"{row.text_to_image:.3f} | {row.decoded:.0f} |",
            flush=True,
        )


def measure(
    codec: codecs.Codec,
    tokens: np.ndarray,
    image_ids: list[str],
    texts: dict[str, np.ndarray],
    exam: Exam,
    model: DoubleForward,
    params: EvaluateParams,
) -> Row:
    """Everything about one codec."""
    stored = codecs.encode(tokens, codec)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        decoded = codecs.decode(stored, codec, tokens.shape[-1])
        seconds.append(time.perf_counter() - start)
    visuals = text_segment(torch.from_numpy(decoded))
    sitting = Sitting(COMPRESSED, compressed_reader(model), model.backbone.chat, image_ids, visuals)
    said = {
        (record.system, record.record, record.key): record for record in answer_questions(sitting, exam, params.exam)
    }
    metrics = scorecard.system_metrics(COMPRESSED, scorecard.answer_rows(exam, said), [], [], params.bootstrap)
    embeddings = scorecard.Embeddings(dict(zip(image_ids, normalise(decoded.mean(axis=1)), strict=True)), texts)
    found = scorecard.retrieval_metrics(exam, embeddings, params.captions_per_picture, params.bootstrap)
    return Row(
        codec,
        codecs.picture_bytes(codec, *tokens.shape[1:]),
        float(np.linalg.norm(decoded - tokens) / np.linalg.norm(tokens)),
        metrics["short_answer"]["accuracy"],
        found["image_to_text"]["recall_at_1"],
        found["text_to_image"]["recall_at_1"],
        len(image_ids) / statistics.median(seconds),
    )


if __name__ == "__main__":
    main()

"""What each codec costs and saves: bytes per picture, answers, search, and decoding, from one store.

    python -m benchmarks.codecs --json results/codecs.json

Reads what `dvc repro evaluate` left: the curated demo world, the compressor and the store. Every codec gets the stored
tokens; questions, captions, model and scoring are those of `evaluate`. Codec `fitted` is fitted to one half of the
pictures and decodes the other, and the other way round, so that it is never scored on what it was fitted to.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer

from components.compression import codecs
from components.compression.fit import fit_directions
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
FITTED_BYTES = (128, 64, 48, 32, 24)  # per picture
REPEATS = 5  # of decoding


class Decoded(NamedTuple):
    """What one codec makes of the pictures."""

    name: str
    num_bytes: int  # per picture, before the file is compressed
    tokens: np.ndarray  # float32 (pictures, summary_tokens, dim)
    seconds: float  # of decoding them all, one thread


class Row(NamedTuple):
    """A line of the table."""

    codec: str
    bytes_per_picture: int
    error: float  # of the tokens, relative
    short_answers: float
    image_to_text: float  # R@1
    text_to_image: float  # R@1
    decoded: float  # pictures per second, one thread


def main(
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
    store: Annotated[Path, typer.Option(help="Of the pictures of the exam, in floats.")] = STORE,
) -> None:
    """Score every codec on the demo world."""
    torch.set_num_threads(1)
    params = load_params("evaluate", EvaluateParams)
    exam, reader = read_exam(CURATED, params.split), TokenStore.open(store)
    base = find_base(COMPRESSOR, None)
    num_summary_tokens = reader.provenance.num_summary_tokens
    model = load_compressor(COMPRESSOR, base, torch.device("cpu"), torch.float32, num_summary_tokens)
    image_ids = [image_id for image_id in exam.image_ids if image_id in reader]
    tokens = reader.tokens(image_ids)
    records = embed_texts(COMPRESSED, model, exam.texts(params.captions_per_picture), params.exam)
    texts = {record.key: np.array(record.embedding, np.float32) for record in records}
    print(
        "| codec | bytes per picture | error | short answers | R@1 picture to text | R@1 text to picture | decoded/s |"
    )
    print("|---|---|---|---|---|---|---|")
    rows = []
    for decoded in [
        *(fixed(codec, tokens) for codec in codecs.CODECS),
        *(fitted(num_bytes, tokens) for num_bytes in FITTED_BYTES),
    ]:
        row = measure(decoded, tokens, image_ids, texts, exam, model, params)
        rows.append(row._asdict())
        print(
            f"| {row.codec} | {row.bytes_per_picture} | {row.error:.3f} | {row.short_answers:.3f} | "
            f"{row.image_to_text:.3f} | {row.text_to_image:.3f} | {row.decoded:.0f} |",
            flush=True,
        )
    if as_json:
        as_json.write_text(json.dumps(rows, indent=1) + "\n")


def fixed(codec: codecs.FixedCodec, tokens: np.ndarray) -> Decoded:
    """A codec that needs no fit."""
    stored, seconds = codecs.encode(tokens, codec), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        decoded = codecs.decode(stored, codec, tokens.shape[-1])
        seconds.append(time.perf_counter() - start)
    num_bytes = codecs.picture_bytes(codec, *tokens.shape[1:])
    return Decoded(codec, num_bytes, decoded, statistics.median(seconds))


def fitted(num_bytes: int, tokens: np.ndarray) -> Decoded:
    """Codec `fitted`, each half of the pictures by a fit to the other half."""
    decoded, seconds = np.empty_like(tokens), 0.0
    halves = np.arange(len(tokens)) % 2
    for half in (0, 1):
        fit = fit_directions(tokens[halves != half].reshape(np.count_nonzero(halves != half), -1), num_bytes)
        stored, times = codecs.encode(tokens[halves == half], codecs.FITTED, fit), []
        for _ in range(REPEATS):
            start = time.perf_counter()
            decoded[halves == half] = codecs.decode(stored, codecs.FITTED, tokens.shape[-1], fit)
            times.append(time.perf_counter() - start)
        seconds += statistics.median(times)
    return Decoded(codecs.FITTED, num_bytes, decoded, seconds)


def measure(
    decoded: Decoded,
    tokens: np.ndarray,
    image_ids: list[str],
    texts: dict[str, np.ndarray],
    exam: Exam,
    model: DoubleForward,
    params: EvaluateParams,
) -> Row:
    """Everything about one codec."""
    visuals = text_segment(torch.from_numpy(decoded.tokens))
    sitting = Sitting(COMPRESSED, compressed_reader(model), model.backbone.chat, image_ids, visuals)
    said = {
        (record.system, record.record, record.key): record for record in answer_questions(sitting, exam, params.exam)
    }
    metrics = scorecard.system_metrics(COMPRESSED, scorecard.answer_rows(exam, said), [], [], params.bootstrap)
    means = normalise(decoded.tokens.mean(axis=1))
    embeddings = scorecard.Embeddings(dict(zip(image_ids, means, strict=True)), texts)
    found = scorecard.retrieval_metrics(exam, embeddings, params.captions_per_picture, params.bootstrap)
    return Row(
        decoded.name,
        decoded.num_bytes,
        float(np.linalg.norm(decoded.tokens - tokens) / np.linalg.norm(tokens)),
        metrics["short_answer"]["accuracy"],
        found["image_to_text"]["recall_at_1"],
        found["text_to_image"]["recall_at_1"],
        len(image_ids) / decoded.seconds,
    )


if __name__ == "__main__":
    typer.run(main)

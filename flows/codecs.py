"""Stage `codecs`: what the stored tokens are still worth in fewer bytes.

    python -m flows.codecs data/curated models/compressor data/compressed/test results/codecs.json

Every codec gets the tokens of the store and is scored by the questions, captions and rules of
`evaluate`. Codec `fitted` is fitted to one half of the pictures and scored on the other, and the
other way round.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from components import schema
from components.compression.identity import check_same_model, find_base
from components.evaluation import publication, scorecard
from components.evaluation.asking import Sitting, answer_questions, embed_images, embed_texts
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import Exam, read_exam
from components.evaluation.systems import COMPRESSED, compressed_reader
from components.files.outputs import json_with, new_file
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.model.adapters import GENERATION
from components.model.segments import text_segment
from components.params import load_params
from components.store import codecs
from components.store.absence import reason_not_stored
from components.store.fit import MIN_PICTURES, fit_directions
from components.store.token_store import TokenStore
from flows.running.lifetime import die_with_parent

FIXED: tuple[codecs.FixedCodec, ...] = (
    "float16",
    "int8",
    "int4",
    "rotated4",
    "rotated3",
    "rotated2",
)
FITTED_BYTES = (64, 32, 16)  # per picture
SHORT_ANSWER = "short_answer"


class Examination(NamedTuple):
    """What every codec is asked."""

    params: EvaluateParams
    exam: Exam  # of short answers and captions
    image_ids: list[str]  # that are stored
    tokens: np.ndarray  # float32 (pictures, summary_tokens, dim), as they are stored
    texts: dict[str, np.ndarray]  # caption -> embedding (dim,)
    model: Method  # that answers


class CodecScores(NamedTuple):
    """One codec."""

    codec: str
    bytes_per_picture: int  # before files are compressed
    error: float  # of the tokens, relative
    short_answer: float | None  # accuracy; None for a method that gives no answers
    image_to_text: float  # R@1
    text_to_image: float  # R@1


def prepare(params: EvaluateParams, curated: Path, compressor: Path, store: Path) -> Examination:
    """Read everything once. Raises ValueError: a store of another model."""
    whole, reader = read_exam(curated, params.split), TokenStore.open(store)
    check_same_model(reader.provenance, compressor)
    questions = {
        image_id: [row for row in rows if row[schema.BENCHMARK] == SHORT_ANSWER]
        for image_id, rows in whole.questions.items()
    }
    exam = Exam(questions, whole.captions, {})
    torch.set_num_threads(params.cpus_per_worker)
    device = torch.device("cuda" if params.gpus_per_worker else "cpu")
    dtype = getattr(torch, reader.provenance.compute["dtype"])
    num_summary_tokens = reader.provenance.num_summary_tokens
    model = load_compressor(
        compressor, find_base(compressor, None), device, dtype, num_summary_tokens
    )
    records = embed_texts(COMPRESSED, model, exam.texts(params.captions_per_picture), params.exam)
    if not model.why_no_answers:
        model.adapters.merge(GENERATION)
    image_ids = [image_id for image_id in exam.image_ids if image_id in reader]
    texts = {record.key: np.array(record.embedding, np.float32) for record in records}
    return Examination(params, exam, image_ids, reader.tokens(image_ids), texts, model)


def all_codecs(tokens: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """Name, bytes of a picture, and what is decoded of `tokens` (pictures, summary_tokens, dim).

    Without `fitted` where half of the pictures are too few to fit to.
    """
    for codec in FIXED:
        decoded = codecs.decode(codecs.encode(tokens, codec), codec, tokens.shape[-1])
        yield codec, codecs.picture_bytes(codec, *tokens.shape[1:]), decoded
    for num_bytes in FITTED_BYTES if len(tokens) >= 2 * MIN_PICTURES else ():
        yield codecs.FITTED, num_bytes, cross_fitted(tokens, num_bytes)


def cross_fitted(tokens: np.ndarray, num_bytes: int) -> np.ndarray:
    """What codec `fitted` keeps of tokens (pictures, summary_tokens, dim), each half by a fit to the other half."""
    decoded, is_odd = np.empty_like(tokens), np.arange(len(tokens)) % 2 == 1
    for half in (is_odd, ~is_odd):
        fit = fit_directions(tokens[~half].reshape(np.count_nonzero(~half), -1), num_bytes)
        stored = codecs.encode(tokens[half], codecs.FITTED, fit)
        decoded[half] = codecs.decode(stored, codecs.FITTED, tokens.shape[-1], fit)
    return decoded


def score(asked: Examination, name: str, num_bytes: int, decoded: np.ndarray) -> CodecScores:
    """The scores of tokens (pictures, summary_tokens, dim) that a codec has decoded."""
    params, exam, model = asked.params, asked.exam, asked.model
    visuals = text_segment(torch.from_numpy(decoded).to(model.device))
    answers: dict[str, Any] = {}
    if not model.why_no_answers:
        reader, chat = compressed_reader(model), model.backbone.chat
        sitting = Sitting(
            COMPRESSED, reader, chat, asked.image_ids, visuals, model.num_placeholders
        )
        said = {
            (row.system, row.record, row.key): row
            for row in answer_questions(sitting, exam, params.exam)
        }
        answers = scorecard.system_metrics(
            COMPRESSED, scorecard.answer_rows(exam, said), [], [], params.bootstrap
        )
    found_images = embed_images(COMPRESSED, model, asked.image_ids, visuals.embeddings)
    images = {record.key: np.array(record.embedding, np.float32) for record in found_images}
    embeddings = scorecard.Embeddings(images, asked.texts)
    found = scorecard.retrieval_metrics(
        exam, embeddings, params.captions_per_picture, params.bootstrap
    )
    error = float(np.linalg.norm(decoded - asked.tokens) / np.linalg.norm(asked.tokens))
    recalls = [found[way]["recall_at_1"] for way in ("image_to_text", "text_to_image")]
    return CodecScores(
        name, num_bytes, round(error, 6), answers.get(SHORT_ANSWER, {}).get("accuracy"), *recalls
    )


def score_codecs(curated: Path, compressor: Path, store: Path, output: Path) -> None:
    """Score every codec and write the scores whole or not at all. Raises OutputError before it scores."""
    with new_file(output, are_scores, [curated, compressor, store]) as path:
        publication.write_json(path, scores_of_codecs(curated, compressor, store))


def are_scores(path: Path) -> bool:
    """Whether a file holds the scores of codecs, or why there are none."""
    if not json_with("codecs")(path):
        return False
    rows = json.loads(path.read_bytes())["codecs"]
    return isinstance(rows, list) and all(
        isinstance(row, dict) and "bytes_per_picture" in row for row in rows
    )


def scores_of_codecs(curated: Path, compressor: Path, store: Path) -> dict[str, Any]:
    """What is published: a row for each codec, or why there is none."""
    if why := reason_not_stored(store):
        return {"codecs": [], "not_stored": why}
    asked = prepare(load_params("evaluate", EvaluateParams), curated, compressor, store)
    rows = []
    for name, num_bytes, decoded in all_codecs(asked.tokens):
        rows.append(score(asked, name, num_bytes, decoded))
        print(
            f"codecs: {name}, {num_bytes} bytes: R@1 of texts {rows[-1].image_to_text:.3f}",
            flush=True,
        )
    return {"codecs": [row._asdict() for row in rows]}


def main(curated: Path, compressor: Path, store: Path, output: Path) -> None:
    """Score the stored tokens in fewer bytes."""
    die_with_parent()
    score_codecs(curated, compressor, store, output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("codecs")

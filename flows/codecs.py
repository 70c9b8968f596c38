"""Stage `codecs`: the worth of the stored tokens in fewer bytes.

    python -m flows.codecs data/curated models/compressor data/compressed/test results/codecs.json

Every codec gets the tokens of the store and is scored by the questions, captions and rules of
`evaluate`. Codec `fitted` is fitted to one half of the pictures and scored on the other, and the
other way round.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from components import schema
from components.compression.identity import check_same_model, find_base
from components.evaluation import publication, scorecard
from components.evaluation.asking import Record, answer_questions, embed_images, embed_texts
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import QuestionSet, Row, read_question_set
from components.evaluation.recall import MEAN, RANKINGS
from components.evaluation.systems import COMPRESSED, compressed_system
from components.files.outputs import json_with, new_file
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.model.adapters import GENERATION
from components.model.segments import Segment, text_segment
from components.params import load_params
from components.store import codecs
from components.store.fit import MIN_PICTURES, fit_directions
from components.store.not_stored import reason_not_stored
from components.store.store_reader import StoreReader
from flows.running.lifetime import die_with_parent

FIXED = codecs.CODECS[1:]  # all but float32, which loses nothing
FITTED_BYTES = (64, 32, 16)  # per picture
SHORT_ANSWER = "short_answer"


class CodecInputs(NamedTuple):
    """Question set, stored tokens and model, the same for every codec."""

    params: EvaluateParams
    question_set: QuestionSet  # of short answers and captions
    image_ids: list[str]  # that are stored
    tokens: np.ndarray  # float32 (pictures, summary_tokens, dim), as they are stored
    texts: dict[str, np.ndarray]  # caption -> embedding (dim,)
    model: Method  # that answers


class CodecScores(NamedTuple):
    """Size and scores of one codec."""

    codec: str
    bytes_per_picture: int  # before files are compressed
    error: float  # of the tokens, relative
    short_answer: float | None  # accuracy; None for a method that gives no answers
    image_to_text: float  # R@1
    text_to_image: float  # R@1


def score_codecs(curated: Path, compressor: Path, store: Path, output: Path) -> None:
    """Score every codec and write the scores, whole or not at all.

    Raises OutputError before it scores.
    """
    with new_file(output, are_scores, [curated, compressor, store]) as path:
        publication.write_json(path, scores_of_codecs(curated, compressor, store))


def are_scores(path: Path) -> bool:
    """Return whether a file holds the scores of codecs, or why there are none."""
    if not json_with("codecs")(path):
        return False
    rows = json.loads(path.read_bytes())["codecs"]
    if not isinstance(rows, list):
        return False
    return all(isinstance(row, dict) and "bytes_per_picture" in row for row in rows)


def scores_of_codecs(curated: Path, compressor: Path, store: Path) -> dict[str, Any]:
    """Return the content of the output: a row for each codec, or why there is none."""
    if why := reason_not_stored(store):
        return {"codecs": [], "not_stored": why}
    inputs = prepare(load_params("evaluate", EvaluateParams), curated, compressor, store)

    # Each codec is shown when it is scored, since all of them take long.
    rows = []
    for name, num_bytes, decoded in all_codecs(inputs.tokens):
        row = score(inputs, name, num_bytes, decoded)
        rows.append(row._asdict())
        recall = row.image_to_text
        print(f"codecs: {name}, {num_bytes} bytes: R@1 of texts {recall:.3f}", flush=True)
    return {"codecs": rows}


def prepare(params: EvaluateParams, curated: Path, compressor: Path, store: Path) -> CodecInputs:
    """Read question set, store and compressor once. Raises ValueError: a store of another model."""
    everything, reader = read_question_set(curated, params.split), StoreReader.open(store)
    check_same_model(reader.provenance, compressor)

    # Short answers and captions say enough of a codec.
    questions: dict[str, list[Row]] = {}
    for image_id, rows in everything.questions.items():
        questions[image_id] = [row for row in rows if row[schema.BENCHMARK] == SHORT_ANSWER]
    question_set = QuestionSet(questions, everything.captions, {}, [])

    # The weights have the number type that the store was made with.
    torch.set_num_threads(params.cpus_per_worker)
    device = torch.device("cuda" if params.gpus_per_worker else "cpu")
    dtype = getattr(torch, reader.provenance.compute["dtype"])
    num_summary_tokens = reader.provenance.num_summary_tokens
    base = find_base(compressor, None)
    model = load_compressor(compressor, base, device, dtype, num_summary_tokens)

    # Captions are embedded before a merge changes the weights that read them.
    texts = question_set.texts(params.captions_per_picture)
    embedded = by_key(embed_texts(COMPRESSED, model, texts, MEAN, params.prompts))
    if not model.why_no_answers:
        model.adapters.merge(GENERATION)

    image_ids = [image_id for image_id in question_set.image_ids if image_id in reader]
    return CodecInputs(params, question_set, image_ids, reader.tokens(image_ids), embedded, model)


def all_codecs(tokens: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield name, bytes of a picture, and `tokens` (pictures, summary_tokens, dim) decoded.

    `fitted` is left out where half of the pictures are too few to fit to.
    """
    for codec in FIXED:
        decoded = codecs.decode(codecs.encode(tokens, codec), codec, tokens.shape[-1])
        yield codec, codecs.picture_bytes(codec, *tokens.shape[1:]), decoded

    if len(tokens) >= 2 * MIN_PICTURES:
        for num_bytes in FITTED_BYTES:
            yield codecs.FITTED, num_bytes, cross_fitted(tokens, num_bytes)


def cross_fitted(tokens: np.ndarray, num_bytes: int) -> np.ndarray:
    """Code (pictures, summary_tokens, dim) by `fitted` and back, each half by the other's fit."""
    decoded, is_odd = np.empty_like(tokens), np.arange(len(tokens)) % 2 == 1

    # A fit would flatter the pictures it was made of, so each half gets the fit of the other.
    for half in (is_odd, ~is_odd):
        fit = fit_directions(tokens[~half].reshape(np.count_nonzero(~half), -1), num_bytes)
        stored = codecs.encode(tokens[half], codecs.FITTED, fit)
        decoded[half] = codecs.decode(stored, codecs.FITTED, tokens.shape[-1], fit)

    return decoded


def score(inputs: CodecInputs, name: str, num_bytes: int, decoded: np.ndarray) -> CodecScores:
    """Score tokens (pictures, summary_tokens, dim) that a codec has decoded."""
    params, model = inputs.params, inputs.model
    visuals = text_segment(torch.from_numpy(decoded).to(model.device))
    error = float(np.linalg.norm(decoded - inputs.tokens) / np.linalg.norm(inputs.tokens))

    # Retrieval in both directions, by the rules of `evaluate`.
    embedded = embed_images(COMPRESSED, model, inputs.image_ids, visuals.embeddings, MEAN)
    recalls = scorecard.retrieval_metrics(
        inputs.question_set,
        scorecard.Embeddings(by_key(embedded), inputs.texts),
        RANKINGS[MEAN],
        params.captions_per_picture,
        params.bootstrap,
    )
    return CodecScores(
        name,
        num_bytes,
        round(error, 6),
        None if model.why_no_answers else short_answer_accuracy(inputs, visuals),
        recalls["image_to_text"]["recall_at_1"],
        recalls["text_to_image"]["recall_at_1"],
    )


def short_answer_accuracy(inputs: CodecInputs, visuals: Segment) -> float | None:
    """Return the accuracy of short answers from visual tokens; None if no question is asked."""
    params = inputs.params
    system = compressed_system(inputs.model, inputs.image_ids, visuals)
    records = answer_questions(system, inputs.question_set, params.prompts)

    outputs = {(record.system, record.record, record.key): record for record in records}
    answers = scorecard.answer_rows(inputs.question_set, outputs)
    metrics = scorecard.system_metrics(COMPRESSED, answers, [], [], params.bootstrap)
    return metrics.get(SHORT_ANSWER, {}).get("accuracy")


def by_key(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Return the embeddings of records by their keys."""
    return {record.key: np.array(record.embedding, np.float32) for record in records}


def main(curated: Path, compressor: Path, store: Path, output: Path) -> None:
    """Score the stored tokens in fewer bytes."""
    die_with_parent()
    score_codecs(curated, compressor, store, output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("codecs")

"""Scored rows of answers, captions and pairs from the records of all systems, and their metrics.

A question that a system could not answer (its picture is not there) has no record; it stays in the
rows with a null answer, counts as wrong, and is counted under `missing`.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from components import schema
from components.evaluation.asking import ANSWER, CAPTION, PAIR, Record
from components.evaluation.compositionality import pair_scores
from components.evaluation.intervals import BootstrapParams
from components.evaluation.metrics import (
    PRECISIONS,
    RECALLS,
    caption_metrics,
    pair_metrics,
    precision_metrics,
    question_metrics,
    recall_metrics,
)
from components.evaluation.question_set import PAIR_ID, QuestionSet, Row
from components.evaluation.recall import (
    MEAN,
    RANKINGS,
    Ranking,
    fits_in_order,
    image_to_text_ranks,
    text_to_image_ranks,
)
from components.evaluation.scoring import ScoredQuestion, answer_score, hard_questions
from components.evaluation.systems import COMPRESSED, DOWNSAMPLED, SYSTEMS

Outputs = Mapping[tuple[str, str, str], Record]  # by (system, record, key)
# picture id, or text -> its embedding (dim,) or its tokens (tokens, dim), L2-normalised
Vectors = Mapping[str, np.ndarray]

# columns of a question that its scored row has as well
ASKED = (
    schema.QUESTION_ID,
    schema.IMAGE_ID,
    schema.BENCHMARK,
    schema.KIND,
    schema.GROUP,
    schema.QUESTION,
)


class Embeddings(NamedTuple):
    """Embeddings that the compressor is searched with, or tokens in their place."""

    images: Vectors  # only of stored pictures
    texts: Vectors


def answer_rows(question_set: QuestionSet, outputs: Outputs) -> list[dict[str, Any]]:
    """Score every question to every system, in order of (system, question_id)."""
    questions, rows = question_set.all_questions(), []
    for system in _systems_with(outputs, ANSWER):
        rows += [_answer_row(system, row, outputs) for row in questions]
    return rows


def caption_rows(
    question_set: QuestionSet, image_ids: Sequence[str], outputs: Outputs
) -> list[dict[str, Any]]:
    """Return every system's caption of every picture, in order of (system, image_id)."""
    rows = []
    for system in _systems_with(outputs, CAPTION):
        for image_id in image_ids:
            row: dict[str, Any] = {"system": system, schema.IMAGE_ID: image_id}
            row["caption"] = _text(outputs.get((system, CAPTION, image_id)))
            row["references"] = question_set.captions[image_id]
            rows.append(row)
    return rows


def pair_rows(
    question_set: QuestionSet, outputs: Outputs, embeddings: Embeddings
) -> list[dict[str, Any]]:
    """Score every caption pair for every system, in order of (system, pair_id).

    The compressor's scores are cosines with the picture, the others' mean log-likelihoods (nats per
    token).
    """
    pairs = question_set.all_pairs()
    rows: list[dict[str, Any]] = []
    for system in _systems_with(outputs, PAIR):
        rows += _likelihood_rows(system, pairs, outputs)
    if embeddings.images:
        rows += _similarity_rows(pairs, embeddings, RANKINGS[MEAN])

    # Stable: pairs of one system keep their order.
    return sorted(rows, key=itemgetter("system"))


def system_metrics(
    system: str,
    answers: Sequence[Mapping[str, Any]],
    captions: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    params: BootstrapParams,
) -> dict[str, Any]:
    """Return all scores of one system, from the rows of all."""
    answers, captions = _of_system(system, answers), _of_system(system, captions)
    pairs = _of_system(system, pairs)

    # One block of metrics per kind of output, as far as the system gives it.
    found = answer_metrics(system, answers, params)
    if captions:
        texts = [caption or "" for caption in _column(captions, "caption")]
        image_ids, references = _column(captions, schema.IMAGE_ID), _column(captions, "references")
        found["captioning"] = caption_metrics(image_ids, texts, references, params)
    if pairs:
        found["compositionality"] = _metrics_of_pairs(pairs, params)

    # Counted as wrong above; a reader should know of how many that is so.
    found["missing"] = {
        "questions": _column(answers, "answer").count(None),
        "captions": _column(captions, "caption").count(None),
        "pairs": _column(pairs, "caption_score").count(None),
    }
    return found


def pair_similarity_metrics(
    question_set: QuestionSet, embeddings: Embeddings, ranking: Ranking, params: BootstrapParams
) -> dict[str, Any]:
    """Return the scores of the caption pairs by another similarity than that of `pair_rows`."""
    rows = _similarity_rows(question_set.all_pairs(), embeddings, ranking)
    return _metrics_of_pairs(rows, params)


def answer_metrics(
    system: str, answers: Sequence[Mapping[str, Any]], params: BootstrapParams
) -> dict[str, Any]:
    """Return the scores of one system's answers, from the rows of all."""
    return question_metrics(list(map(_scored, _of_system(system, answers))), params)


def hard_rows(answers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return all systems' rows of the questions that `downsampled` gets wrong."""
    hard = hard_questions(list(map(_scored, _of_system(DOWNSAMPLED, answers))))
    return [row for row in answers if row[schema.QUESTION_ID] in hard]


def retrieval_metrics(
    question_set: QuestionSet,
    embeddings: Embeddings,
    ranking: Ranking,
    captions_per_picture: int,
    params: BootstrapParams,
) -> dict[str, Any]:
    """Return the recall both ways over all pictures with captions.

    A picture that is not stored is never found.
    """
    image_ids = list(question_set.captions)

    # Captions of all pictures in one row, each with the place of its picture.
    texts: list[str] = []
    owner_of_text: list[int] = []
    image_id_of_text: list[str] = []
    for owner, image_id in enumerate(image_ids):
        captions = question_set.captions[image_id][:captions_per_picture]
        texts += captions
        owner_of_text += [owner] * len(captions)
        image_id_of_text += [image_id] * len(captions)
    owners = np.array(owner_of_text)
    text_vectors = _stacked(embeddings.texts, texts)

    # Retrieval both ways.
    image_vectors, is_present = _gallery(image_ids, embeddings.images)
    searched = (image_vectors, text_vectors, owners, is_present, max(RECALLS), ranking)
    to_text, to_image = image_to_text_ranks(*searched), text_to_image_ranks(*searched)
    return {
        "image_to_text": recall_metrics(to_text, image_ids, params),
        "text_to_image": recall_metrics(to_image, image_id_of_text, params),
    }


def partial_query_metrics(
    question_set: QuestionSet,
    embeddings: Embeddings,
    ranking: Ranking,
    params: BootstrapParams,
) -> dict[str, Any]:
    """Return the precision of queries by kind; the gallery is every picture of the question set.

    A picture that is not stored is never found.
    """
    image_ids = question_set.image_ids
    place_of = {image_id: place for place, image_id in enumerate(image_ids)}
    image_vectors, is_present = _gallery(image_ids, embeddings.images)

    found = {}
    for kind in sorted(set(_column(question_set.queries, schema.KIND))):
        queries = [row for row in question_set.queries if row[schema.KIND] == kind]
        is_fitting = np.zeros((len(queries), len(image_ids)), dtype=bool)
        for row, query in enumerate(queries):
            is_fitting[row, [place_of[image_id] for image_id in query[schema.IMAGE_IDS]]] = True

        vectors = _stacked(embeddings.texts, _column(queries, schema.TEXT))
        fits = fits_in_order(
            vectors, image_vectors, is_fitting, is_present, max(PRECISIONS), ranking
        )
        query_ids = _column(queries, schema.QUERY_ID)
        found[kind] = precision_metrics(fits, is_fitting, query_ids, params)
    return found


def kind_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return plot data: one row per system, benchmark and kind."""
    rows = []
    for system in SYSTEMS:
        for key, kinds in metrics.get(system, {}).items():
            # The plot shows accuracies only.
            if not key.endswith("_by_kind") or key.endswith("_f1_by_kind"):
                continue
            benchmark = key.removesuffix("_by_kind")
            for kind, score in kinds.items():
                label = f"{benchmark} {kind}, {system}"
                rows.append({"label": label, "system": system, "kind": kind, **score})
    return rows


def token_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return plot data: accuracy of every benchmark against the visual tokens that are read."""
    rows = []
    for system in SYSTEMS:
        for key, score in metrics.get(system, {}).items():
            if "accuracy" in score:
                num_tokens = metrics["costs"]["visual_tokens"][system]
                point = {"system": system, "visual_tokens": num_tokens, "benchmark": key}
                rows.append(point | score)
    return rows


def recall_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return plot data: recall of the compressor against k, a column for each way."""
    recalls = metrics[COMPRESSED].get("retrieval")
    if not recalls:
        return []
    rows = []
    for k in RECALLS:
        row: dict[str, Any] = {"k": k}
        for way, recall in recalls.items():
            row[way] = recall[f"recall_at_{k}"]
        rows.append(row)
    return rows


def _of_system(system: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["system"] == system]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _systems_with(outputs: Outputs, kind: str) -> list[str]:
    """Return the systems that have given any such record, sorted; some methods give none."""
    return sorted({system for system, record, _ in outputs if record == kind})


def _answer_row(system: str, row: Row, outputs: Outputs) -> dict[str, Any]:
    answer = _text(outputs.get((system, ANSWER, row[schema.QUESTION_ID])))
    references = row[schema.ANSWERS]
    score = answer_score(row[schema.BENCHMARK], answer, references, row[schema.CHOICES])
    asked = {column: row[column] for column in ASKED}
    return {"system": system, **asked, "references": references, "answer": answer, "score": score}


def _scored(row: Mapping[str, Any]) -> ScoredQuestion:
    fields = {name: row[name] for name in ScoredQuestion._fields if name != "reference"}
    return ScoredQuestion(**fields, reference=row["references"][0])


def _similarity_rows(
    pairs: Sequence[Row], embeddings: Embeddings, ranking: Ranking
) -> list[dict[str, Any]]:
    stored = [row for row in pairs if row[schema.IMAGE_ID] in embeddings.images]
    similarities: dict[str, tuple[float, float]] = {}

    # Both similarities of each pair: with the caption, then with the near-miss.
    if stored:
        images = _stacked(embeddings.images, _column(stored, schema.IMAGE_ID))
        scores = []
        for column in (schema.CAPTION, schema.NEGATIVE_CAPTION):
            texts = _stacked(embeddings.texts, _column(stored, column))
            scores.append(ranking.of_pairs(images, texts).tolist())
        pair_ids = _column(stored, PAIR_ID)
        similarities = dict(zip(pair_ids, zip(*scores, strict=True), strict=True))

    # A picture that is not stored has none.
    rows = []
    for row in pairs:
        rows.append(_pair_row(COMPRESSED, row, *similarities.get(row[PAIR_ID], (None, None))))
    return rows


def _metrics_of_pairs(
    pairs: Sequence[Mapping[str, Any]], params: BootstrapParams
) -> dict[str, Any]:
    subsets, image_ids = _column(pairs, schema.SUBSET), _column(pairs, schema.IMAGE_ID)
    return pair_metrics(subsets, image_ids, np.array(_column(pairs, "score")), params)


def _likelihood_rows(system: str, pairs: Sequence[Row], outputs: Outputs) -> list[dict[str, Any]]:
    rows = []
    for row in pairs:
        record = outputs.get((system, PAIR, row[PAIR_ID]))
        rows.append(_pair_row(system, row, record and record.first, record and record.second))
    return rows


def _pair_row(
    system: str, row: Row, caption_score: float | None, negative_score: float | None
) -> dict[str, Any]:
    # None, where there is nothing to score from, is NaN, which never wins.
    numbers = np.array([[caption_score], [negative_score]], dtype=np.float64)
    return {
        "system": system,
        **row,
        "caption_score": caption_score,
        "negative_score": negative_score,
        "score": float(pair_scores(*numbers)[0]),
    }


def _gallery(image_ids: Sequence[str], images: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of pictures (images, …), and which of them have some (images,)."""
    # A picture without an embedding keeps its row, and is no candidate.
    nowhere = np.zeros_like(next(iter(images.values())))
    vectors = np.stack([images.get(image_id, nowhere) for image_id in image_ids])
    return vectors, np.array([image_id in images for image_id in image_ids])


def _stacked(vectors: Vectors, keys: Sequence[str]) -> np.ndarray:
    return np.stack([vectors[key] for key in keys])


def _text(record: Record | None) -> str | None:
    return None if record is None else record.text

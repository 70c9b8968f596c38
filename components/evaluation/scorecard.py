"""From the records of an examination to what is published: rows for people, and the metrics of every system.

What a system could not answer (its picture is not there) has no record; it stays in the rows with a
null answer, counts as wrong, and is counted under `missing`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from components import schema
from components.evaluation.asking import ANSWER, CAPTION, PAIR, Record
from components.evaluation.compositionality import pair_scores, paired_cosines
from components.evaluation.intervals import BootstrapParams
from components.evaluation.metrics import (
    RECALLS,
    caption_metrics,
    pair_metrics,
    question_metrics,
    recall_metrics,
)
from components.evaluation.question_set import PAIR_ID, Exam, Row
from components.evaluation.recall import image_to_text_ranks, text_to_image_ranks
from components.evaluation.scoring import ScoredQuestion, answer_score
from components.evaluation.systems import COMPRESSED, SYSTEMS

Said = Mapping[tuple[str, str, str], Record]  # (system, record, key) -> what the system said
Vectors = Mapping[str, np.ndarray]  # picture id, or text -> its L2-normalised embedding (dim,)


class Embeddings(NamedTuple):
    """What the compressor is searched with."""

    images: Vectors  # only of stored pictures
    texts: Vectors


def answer_rows(exam: Exam, said: Said) -> list[dict[str, Any]]:
    """Every question to every system with its answer and score, in order of (system, question_id)."""
    questions = exam.all_questions()
    return [
        _answer_row(system, row, said)
        for system in _systems_with(said, ANSWER)
        for row in questions
    ]


def caption_rows(exam: Exam, described: Sequence[str], said: Said) -> list[dict[str, Any]]:
    """A caption by every system for every picture of `described`, in order of (system, image_id)."""
    return [
        {
            "system": system,
            schema.IMAGE_ID: image_id,
            "caption": _text(said.get((system, CAPTION, image_id))),
            "references": exam.captions[image_id],
        }
        for system in _systems_with(said, CAPTION)
        for image_id in described
    ]


def pair_rows(exam: Exam, said: Said, embeddings: Embeddings) -> list[dict[str, Any]]:
    """Every caption pair with the two scores of every system, in order of (system, pair_id).

    The compressor's scores are cosines with the picture, the others' mean log-likelihoods (nats per
    token).
    """
    pairs = exam.all_pairs()
    systems = [*_systems_with(said, PAIR), *([COMPRESSED] if embeddings.images else [])]
    return [
        row
        for system in sorted(systems)
        for row in (
            _cosine_rows(pairs, embeddings)
            if system == COMPRESSED
            else _likelihood_rows(system, pairs, said)
        )
    ]


def system_metrics(
    system: str,
    answers: Sequence[Mapping[str, Any]],
    captions: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    params: BootstrapParams,
) -> dict[str, Any]:
    """All scores of one system, from the rows of all."""
    answers, captions, pairs = (
        [row for row in rows if row["system"] == system] for rows in (answers, captions, pairs)
    )
    found = question_metrics([_scored(row) for row in answers], params) if answers else {}
    if captions:
        texts, references = (
            [row["caption"] or "" for row in captions],
            [row["references"] for row in captions],
        )
        found["captioning"] = caption_metrics(
            [row[schema.IMAGE_ID] for row in captions], texts, references, params
        )
    if pairs:
        subsets, image_ids = (
            [row[schema.SUBSET] for row in pairs],
            [row[schema.IMAGE_ID] for row in pairs],
        )
        found["compositionality"] = pair_metrics(
            subsets, image_ids, np.array([row["score"] for row in pairs]), params
        )
    found["missing"] = {
        "questions": sum(row["answer"] is None for row in answers),
        "captions": sum(row["caption"] is None for row in captions),
        "pairs": sum(row["caption_score"] is None for row in pairs),
    }
    return found


def retrieval_metrics(
    exam: Exam, embeddings: Embeddings, captions_per_picture: int, params: BootstrapParams
) -> dict[str, Any]:
    """Recall both ways over all pictures with captions; a picture that is not stored is never found."""
    image_ids = list(exam.captions)
    texts = [
        (owner, text)
        for owner, image_id in enumerate(image_ids)
        for text in exam.captions[image_id][:captions_per_picture]
    ]
    text_vectors = np.stack([embeddings.texts[text] for _, text in texts])
    nowhere = np.zeros(text_vectors.shape[1], dtype=np.float32)
    image_vectors = np.stack([embeddings.images.get(image_id, nowhere) for image_id in image_ids])
    is_present = np.array([image_id in embeddings.images for image_id in image_ids])
    owners = np.array([owner for owner, _ in texts])
    to_text = image_to_text_ranks(image_vectors, text_vectors, owners, is_present, max(RECALLS))
    to_image = text_to_image_ranks(image_vectors, text_vectors, owners, is_present, max(RECALLS))
    return {
        "image_to_text": recall_metrics(to_text, image_ids, params),
        "text_to_image": recall_metrics(to_image, [image_ids[owner] for owner in owners], params),
    }


def kind_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plot data: one row per system, benchmark and kind."""
    return [
        {
            "label": f"{key.removesuffix('_by_kind')} {kind}, {system}",
            "system": system,
            "kind": kind,
            **score,
        }
        for system in SYSTEMS
        for key, kinds in metrics.get(system, {}).items()
        if key.endswith("_by_kind") and not key.endswith("_f1_by_kind")
        for kind, score in kinds.items()
    ]


def token_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plot data: the accuracy of every benchmark against the visual tokens that the language model reads."""
    return [
        {
            "system": system,
            "visual_tokens": metrics["costs"]["visual_tokens"][system],
            "benchmark": key,
            **score,
        }
        for system in SYSTEMS
        for key, score in metrics.get(system, {}).items()
        if "accuracy" in score
    ]


def recall_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Plot data: recall of the compressor against k, a column for each way."""
    recalls = metrics[COMPRESSED].get("retrieval", {})
    rows = [
        {"k": k, **{direction: recalls[direction][f"recall_at_{k}"] for direction in recalls}}
        for k in RECALLS
    ]
    return rows if recalls else []


def _systems_with(said: Said, kind: str) -> list[str]:
    """The systems that have given any such record, sorted. A method may not be made for some."""
    return sorted({system for system, record, _ in said if record == kind})


def _answer_row(system: str, row: Row, said: Said) -> dict[str, Any]:
    answer = _text(said.get((system, ANSWER, row[schema.QUESTION_ID])))
    columns = (
        schema.QUESTION_ID,
        schema.IMAGE_ID,
        schema.BENCHMARK,
        schema.KIND,
        schema.GROUP,
        schema.QUESTION,
    )
    score = answer_score(row[schema.BENCHMARK], answer, row[schema.ANSWERS], row[schema.CHOICES])
    told = {column: row[column] for column in columns}
    return {
        "system": system,
        **told,
        "references": row[schema.ANSWERS],
        "answer": answer,
        "score": score,
    }


def _scored(row: Mapping[str, Any]) -> ScoredQuestion:
    fields = {name: row[name] for name in ScoredQuestion._fields if name != "reference"}
    return ScoredQuestion(**fields, reference=row["references"][0])


def _cosine_rows(pairs: Sequence[Row], embeddings: Embeddings) -> list[dict[str, Any]]:
    stored = [row for row in pairs if row[schema.IMAGE_ID] in embeddings.images]
    cosines: dict[str, tuple[float, float]] = {}
    if stored:
        images = np.stack([embeddings.images[row[schema.IMAGE_ID]] for row in stored])
        caption, negative = (
            paired_cosines(
                images, np.stack([embeddings.texts[row[column]] for row in stored])
            ).tolist()
            for column in (schema.CAPTION, schema.NEGATIVE_CAPTION)
        )
        ids = [row[PAIR_ID] for row in stored]
        cosines = dict(zip(ids, zip(caption, negative, strict=True), strict=True))
    return [_pair_row(COMPRESSED, row, *cosines.get(row[PAIR_ID], (None, None))) for row in pairs]


def _likelihood_rows(system: str, pairs: Sequence[Row], said: Said) -> list[dict[str, Any]]:
    found = [said.get((system, PAIR, row[PAIR_ID])) for row in pairs]
    return [
        _pair_row(system, row, record and record.first, record and record.second)
        for row, record in zip(pairs, found, strict=True)
    ]


def _pair_row(
    system: str, row: Row, caption_score: float | None, negative_score: float | None
) -> dict[str, Any]:
    numbers = [np.nan if score is None else score for score in (caption_score, negative_score)]
    return {
        "system": system,
        **row,
        "caption_score": caption_score,
        "negative_score": negative_score,
        "score": float(pair_scores(*np.array(numbers)[:, None])[0]),
    }


def _text(record: Record | None) -> str | None:
    return None if record is None else record.text

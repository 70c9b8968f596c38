"""Stage `evaluate`: score the compressor from what `compress` stored, and three comparisons by the same code.

    python -m flows.evaluate CURATED COMPRESSOR STORE OUTPUT METRICS TIMINGS

CURATED holds pictures, questions, captions and caption pairs; STORE the summary tokens of the pictures of the split.
OUTPUT gets answers.jsonl, captions.jsonl, compositionality.jsonl and plots/*.csv. A picture that is not in the store
(for the systems that open pictures: that cannot be opened) counts as wrong everywhere, and is counted under `missing`.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from components import schema
from components.analysis.costs import ModelSize, Workload, cost_table
from components.compression.identity import check_same_model, find_base, read_config
from components.compression.store import TokenStore
from components.evaluation import publication, scorecard
from components.evaluation.answering import (
    AVERAGE_POOLED,
    BLIND,
    COMPRESSED,
    SYSTEMS,
    UNCOMPRESSED,
    base_reader,
    compressed_reader,
)
from components.evaluation.exam import Exam, read_exam
from components.evaluation.examination import (
    ANSWER,
    LENGTH,
    SIZE,
    TEXT,
    TIME,
    Record,
    Sitting,
    answer_questions,
    describe_pictures,
    embed_texts,
    to_table,
    weigh_pairs,
)
from components.evaluation.pooling import average_pool
from components.evaluation.settings import EvaluateParams
from components.methods.checkpoint import load_compressor
from components.methods.method import Method
from components.methods.tower import matrix_weights
from components.model.backbone import Backbone
from components.model.loading import load_backbone
from components.model.segments import Segment, text_segment
from components.params import load_params
from components.pictures import PictureError, decode_picture
from flows.cluster import connect
from flows.lifetime import die_with_parent

Task = dict[str, Any]  # {"system": one of SYSTEMS, "image_ids": [...], "texts": [...]}


def evaluate(
    params: EvaluateParams,
    curated: Path,
    compressor: Path,
    store: Path,
    output: Path,
    metrics: Path,
    timings: Path,
) -> None:
    """Ask every system everything, score it, and write the results whole or not at all."""
    start = time.perf_counter()
    exam, tokens = read_exam(curated, params.split), TokenStore.open(store)
    check_same_model(tokens.provenance, compressor)
    check_same_pictures(exam, tokens)
    places = {"curated": curated, "compressor": compressor, "store": store}
    records = examine(params, exam, {name: str(path.resolve()) for name, path in places.items()})
    examined = time.perf_counter()
    results = score(params, exam, tokens, records)
    publication.write_folder(output, results)
    publication.write_json(metrics, results["metrics"])
    seconds = {"examination": examined - start, "scoring": time.perf_counter() - examined}
    publication.write_json(timings, publication.timing_table(records, seconds))
    print(f"evaluate: done in {time.perf_counter() - start:.0f} s, scores in {metrics}", flush=True)


def check_same_pictures(exam: Exam, tokens: TokenStore) -> None:
    """Raises ValueError when the store is of other pictures altogether; single ones may be missing."""
    stored = sum(image_id in tokens for image_id in exam.image_ids)
    if not stored:
        raise ValueError(
            f"{tokens.folder}: holds none of the {len(exam.image_ids)} pictures of the exam; compress the pictures of "
            "the split that evaluate.split names"
        )
    print(f"evaluate: {stored} of {len(exam.image_ids)} pictures are stored", flush=True)


def examine(params: EvaluateParams, exam: Exam, places: Mapping[str, str]) -> list[Record]:
    """All records of all systems, from `num_workers` actors; the portions alone decide what is batched with what."""
    connect()
    tasks = list(portions(params, exam))
    answered = (
        ray.data.from_items(tasks, override_num_blocks=len(tasks))
        .map_batches(
            Examiner,
            fn_constructor_kwargs={"params": params.model_dump(), **places},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=params.num_workers),
            num_cpus=params.cpus_per_worker,
            num_gpus=params.gpus_per_worker,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    return list(with_progress(answered, len(tasks)))


def portions(params: EvaluateParams, exam: Exam) -> Iterator[Task]:
    """The work in pieces: pictures per system, then captions to embed. Pieces of one system stand together."""
    texts = exam.texts(params.captions_per_picture)
    for start in range(0, len(texts), params.texts_per_task):
        yield {"system": COMPRESSED, "image_ids": [], "texts": texts[start : start + params.texts_per_task]}
    image_ids = exam.image_ids
    for system in SYSTEMS:
        for start in range(0, len(image_ids), params.pictures_per_task):
            yield {"system": system, "image_ids": image_ids[start : start + params.pictures_per_task], "texts": []}


class Examiner:
    """A worker: puts portions of the exam to the systems. Holds one model at a time, the compressor or the base."""

    def __init__(self, params: dict[str, Any], curated: str, compressor: str, store: str) -> None:
        self.params = EvaluateParams.model_validate(params)
        torch.set_num_threads(self.params.cpus_per_worker)
        self.curated, self.compressor = Path(curated), Path(compressor)
        self.base = find_base(self.compressor, None)
        self.exam = read_exam(self.curated, self.params.split)
        self.store = TokenStore.open(store)
        self.described = set(described_pictures(self.params, self.exam))
        self.device = torch.device("cuda" if self.params.gpus_per_worker else "cpu")
        self.dtype = getattr(torch, self.store.provenance.compute["dtype"])
        self.model: Method | Backbone | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The records of one portion."""
        (task,) = batch.to_pylist()
        start = time.perf_counter()
        if task["system"] == COMPRESSED:
            records = self._examine_compressor(task)
        else:
            records = self._examine_base(task)
        return to_table(records, task["system"], start)

    def _examine_compressor(self, task: Task) -> list[Record]:
        if not isinstance(self.model, Method):
            num_summary_tokens = self.store.provenance.num_summary_tokens
            self.model = load_compressor(self.compressor, self.base, self.device, self.dtype, num_summary_tokens)
        image_ids = [image_id for image_id in task["image_ids"] if image_id in self.store]
        tokens = text_segment(torch.from_numpy(self.store.tokens(image_ids)))
        sitting = Sitting(COMPRESSED, compressed_reader(self.model), self.model.backbone.chat, image_ids, tokens)
        said = self._answers_and_captions(sitting)
        return said + embed_texts(COMPRESSED, self.model, task["texts"], self.params.exam)

    def _examine_base(self, task: Task) -> list[Record]:
        if not isinstance(self.model, Backbone):
            config = read_config(self.compressor)
            pad_to_square = bool(config.preprocessing["pad_to_square"])
            backbone = load_backbone(self.base, config.base_revision, self.dtype, "sdpa", pad_to_square)
            self.model = backbone.to(self.device).eval()
        backbone = self.model
        image_ids, tokens = task["image_ids"], None
        if task["system"] != BLIND:
            image_ids, tokens = self._image_embeddings(backbone, image_ids)
            if task["system"] == AVERAGE_POOLED and tokens is not None:
                tokens = average_pool(tokens, self.store.provenance.num_summary_tokens)
        sitting = Sitting(task["system"], base_reader(backbone), backbone.chat, image_ids, tokens)
        said = self._answers_and_captions(sitting) + weigh_pairs(sitting, self.exam, self.params.exam)
        lengths = [Record(task["system"], LENGTH, key, None, length) for key, length in sitting.lengths.items()]
        return [*said, *lengths, *sizes(backbone)]

    def _answers_and_captions(self, sitting: Sitting) -> list[Record]:
        described = [image_id for image_id in sitting.image_ids if image_id in self.described]
        return [
            *answer_questions(sitting, self.exam, self.params.exam),
            *describe_pictures(sitting, described, self.params.exam),
        ]

    def _image_embeddings(self, backbone: Backbone, image_ids: Sequence[str]) -> tuple[list[str], Segment | None]:
        """The pictures that can be opened, and what the language model reads of them; None if there are none."""
        folder = self.curated / "images" / self.params.split
        columns, wanted = [schema.IMAGE_ID, schema.IMAGE], [(schema.IMAGE_ID, "in", list(image_ids))]
        opened = {}
        for row in pq.read_table(folder, columns=columns, filters=wanted).to_pylist():
            with suppress(PictureError):
                opened[row[schema.IMAGE_ID]] = decode_picture(row[schema.IMAGE], self.params.pictures)
        found = [image_id for image_id in image_ids if image_id in opened]
        if not found:
            return [], None
        return found, backbone.encode_images(backbone.prepare([opened[image_id] for image_id in found]))


def score(params: EvaluateParams, exam: Exam, tokens: TokenStore, records: Sequence[Record]) -> dict[str, Any]:
    """Everything that is published: the rows of each file, and the metrics."""
    said = {(record.system, record.record, record.key): record for record in records}
    texts = {record.key: np.array(record.embedding, np.float32) for record in records if record.record == TEXT}
    embeddings = scorecard.Embeddings(dict(zip(tokens.ids, tokens.embeddings(), strict=True)), texts)
    answers = scorecard.answer_rows(exam, said)
    captions = scorecard.caption_rows(exam, described_pictures(params, exam), said)
    pairs = scorecard.pair_rows(exam, said, embeddings)
    metrics = {
        system: scorecard.system_metrics(system, answers, captions, pairs, params.bootstrap) for system in SYSTEMS
    }
    if exam.captions:
        metrics[COMPRESSED]["retrieval"] = scorecard.retrieval_metrics(
            exam, embeddings, params.captions_per_picture, params.bootstrap
        )
    metrics["costs"] = cost_table(*measured(tokens, records))
    return {"answers": answers, "captions": captions, "compositionality": pairs, "metrics": metrics}


def measured(tokens: TokenStore, records: Sequence[Record]) -> tuple[ModelSize, Workload]:
    """The sizes of the base model, and the mean lengths of prompts and answers."""
    size = {record.key: int(record.first or 0) for record in records if record.record == SIZE}
    answers = [record for record in records if record.record == ANSWER]
    answer_tokens = {
        system: float(np.mean([record.second for record in answers if record.system == system] or [0]))
        for system in SYSTEMS
    }
    question_tokens = float(np.mean([record.first for record in answers if record.system == BLIND] or [0]))
    provenance = tokens.provenance
    lengths = [record.first or 0 for record in records if (record.system, record.record) == (UNCOMPRESSED, LENGTH)]
    if not lengths:
        raise ValueError("none of the exam's pictures can be opened, so that nothing can be compared; curate again")
    image_tokens = round(float(np.mean(lengths)))
    load = Workload(image_tokens, provenance.num_summary_tokens, provenance.dim, question_tokens, answer_tokens)
    return ModelSize(size["language_model"], size["vision"]), load


def sizes(backbone: Backbone) -> list[Record]:
    """SIZE records of a base model."""
    counts = {
        "language_model": matrix_weights(backbone.language_model),
        "vision": sum(map(matrix_weights, backbone.vision_modules)),
    }
    return [Record(UNCOMPRESSED, SIZE, key, None, float(count)) for key, count in counts.items()]


def described_pictures(params: EvaluateParams, exam: Exam) -> list[str]:
    """The pictures that every system describes."""
    return list(exam.captions)[: params.captioned_pictures]


def with_progress(tables: Iterable[pa.Table], num_portions: int) -> Iterator[Record]:
    """The records of all tables; prints a line with the rate for every few portions."""
    start, num_done, num_records = time.perf_counter(), 0, 0
    for table in tables:
        records = [Record(**row) for row in table.to_pylist()]
        num_records += len(records)
        num_done += sum(record.record == TIME for record in records)
        rate = num_records / (time.perf_counter() - start)
        print(f"evaluate: {num_done} of {num_portions} portions, {num_records} records, {rate:.0f}/s", flush=True)
        yield from records


if __name__ == "__main__":
    die_with_parent()
    evaluate(load_params("evaluate", EvaluateParams), *map(Path, sys.argv[1:]))

"""Stage `evaluate`: score the compressor from what `compress` stored, and three comparisons by the same code.

    python -m flows.evaluate CURATED COMPRESSOR STORE OUTPUT METRICS TIMINGS

CURATED holds pictures, questions, captions and caption pairs; STORE the summary tokens of the
pictures of the split. OUTPUT gets answers.jsonl, captions.jsonl, compositionality.jsonl and
plots/*.csv. A picture that is not in the store (for the systems that open pictures: that cannot be
opened) counts as wrong everywhere, and is counted under `missing`.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from components.compression.identity import check_base, check_same_model, find_base, read_config
from components.costs.inference_costs import (
    MethodCosts,
    ModelSize,
    Workload,
    compression_flops,
    cost_table,
)
from components.evaluation import publication, scorecard
from components.evaluation.asking import ANSWER, COST, IMAGE, LENGTH, SIZE, TEXT, TIME, Record
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.question_set import Exam, read_exam
from components.evaluation.systems import COMPRESSED, UNCOMPRESSED
from components.files.outputs import json_with, new_file, new_folder
from components.methods.checkpoint import CompressorConfig
from components.methods.method_settings import FWD2BOT
from components.params import load_params
from components.store.absence import reason_not_stored
from components.store.token_store import TokenStore
from flows.running.cluster import connect
from flows.running.lifetime import die_with_parent
from flows.workers.evaluate_worker import Examiner, Task, described_pictures


def evaluate(
    params: EvaluateParams,
    curated: Path,
    compressor: Path,
    store: Path,
    output: Path,
    metrics: Path,
    timings: Path,
) -> None:
    """Ask every system everything, score it, and write the results whole or not at all.

    Raises OutputError before anything is asked.
    """
    inputs = [curated, compressor, store]
    with (
        new_folder("evaluate", output, [*inputs, metrics, timings]) as folder,
        new_file(
            metrics, json_with("compressed", "costs", "method"), [*inputs, timings]
        ) as metrics_file,
        new_file(
            timings, json_with("compressed", "examination", "scoring"), inputs
        ) as timings_file,
    ):
        start = time.perf_counter()
        results, records, seconds = examine_and_score(params, curated, compressor, store)
        publication.write_folder(folder, results)
        publication.write_json(metrics_file, results["metrics"])
        publication.write_json(timings_file, publication.timing_table(records, seconds))
    print(f"evaluate: done in {time.perf_counter() - start:.0f} s, scores in {metrics}", flush=True)


def examine_and_score(
    params: EvaluateParams, curated: Path, compressor: Path, store: Path
) -> tuple[dict[str, Any], list[Record], dict[str, float]]:
    """What is published, the records behind it, and the seconds that they took."""
    start = time.perf_counter()
    exam, config = read_exam(curated, params.split), read_config(compressor)
    check_base(compressor, find_base(compressor, None))
    if not reason_not_stored(store):
        tokens = TokenStore.open(store)
        check_same_model(tokens.provenance, compressor)
        check_same_pictures(exam, tokens)
        config = with_count(config, tokens.provenance.num_summary_tokens)
    places = {"curated": curated, "compressor": compressor, "store": store}
    records = examine(params, exam, {name: str(path.resolve()) for name, path in places.items()})
    examined = time.perf_counter()
    results = score(params, exam, config, records)
    return (
        results,
        records,
        {"examination": examined - start, "scoring": time.perf_counter() - examined},
    )


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
        yield {
            "system": COMPRESSED,
            "image_ids": [],
            "texts": texts[start : start + params.texts_per_task],
        }
    image_ids = exam.image_ids
    for system in (COMPRESSED, *params.references):
        for start in range(0, len(image_ids), params.pictures_per_task):
            yield {
                "system": system,
                "image_ids": image_ids[start : start + params.pictures_per_task],
                "texts": [],
            }


def score(
    params: EvaluateParams, exam: Exam, config: CompressorConfig, records: Sequence[Record]
) -> dict[str, Any]:
    """Everything that is published: the rows of each file, and the metrics."""
    said = {(record.system, record.record, record.key): record for record in records}
    embeddings = scorecard.Embeddings(vectors(records, IMAGE), vectors(records, TEXT))
    answers = scorecard.answer_rows(exam, said)
    captions = scorecard.caption_rows(exam, described_pictures(params, exam), said)
    pairs = scorecard.pair_rows(exam, said, embeddings)
    metrics: dict[str, Any] = {
        system: scorecard.system_metrics(system, answers, captions, pairs, params.bootstrap)
        for system in (COMPRESSED, *params.references)
    }
    if exam.captions and embeddings.images:
        metrics[COMPRESSED]["retrieval"] = scorecard.retrieval_metrics(
            exam, embeddings, params.captions_per_picture, params.bootstrap
        )
    size, load, method = measured((COMPRESSED, *params.references), config, records)
    metrics["costs"] = cost_table(size, load, method)
    metrics["method"] = {
        "name": config.method.name,
        "tuning": config.method.tuning,
        "num_tokens": config.compressor.num_summary_tokens,
        "is_stored": method.is_stored,
    }
    return {"answers": answers, "captions": captions, "compositionality": pairs, "metrics": metrics}


def vectors(records: Sequence[Record], kind: str) -> dict[str, np.ndarray]:
    """The embeddings among the records, by their keys."""
    return {
        record.key: np.array(record.embedding, np.float32)
        for record in records
        if record.record == kind
    }


def measured(
    systems: Sequence[str], config: CompressorConfig, records: Sequence[Record]
) -> tuple[ModelSize, Workload, MethodCosts]:
    """The sizes of the base model, the mean lengths of prompts and answers, and what the method costs."""
    numbers = {
        (record.record, record.key): record.first or 0
        for record in records
        if record.record in (SIZE, COST)
    }
    size = ModelSize(*(int(numbers[SIZE, field]) for field in ModelSize._fields))
    question_tokens, answer_tokens = (
        mean_lengths(systems, records, field) for field in ("first", "second")
    )
    known = UNCOMPRESSED if UNCOMPRESSED in systems else COMPRESSED
    lengths = [
        record.first or 0 for record in records if (record.system, record.record) == (known, LENGTH)
    ]
    if not lengths:
        raise ValueError(
            "none of the exam's pictures can be opened, so that nothing can be compared; curate again"
        )
    image_tokens, kept = round(float(np.mean(lengths))), config.compressor.num_summary_tokens
    costs = {field: numbers.get((COST, field)) for field in MethodCosts._fields}
    method = MethodCosts(**costs)._replace(is_stored=bool(costs["is_stored"]))  # type: ignore[arg-type]  # one by one
    # by the paper's formula; the counter sees what is not computed for nothing
    if config.method.name == FWD2BOT:
        method = method._replace(per_picture=compression_flops(size, image_tokens, kept))
    return size, Workload(image_tokens, kept, config.dim, question_tokens, answer_tokens), method


def mean_lengths(systems: Sequence[str], records: Sequence[Record], field: str) -> dict[str, float]:
    """{system: mean of this field of its ANSWER records}, 0 where it answers nothing."""
    said = {
        system: [it for it in records if (it.system, it.record) == (system, ANSWER)]
        for system in systems
    }
    return {
        system: float(np.mean([getattr(it, field) for it in rows] or [0]))
        for system, rows in said.items()
    }


def with_count(config: CompressorConfig, num_summary_tokens: int) -> CompressorConfig:
    """The compressor as the one that makes so many tokens."""
    params = config.compressor.model_copy(update={"num_summary_tokens": num_summary_tokens})
    return config.model_copy(update={"compressor": params})


def with_progress(tables: Iterable[pa.Table], num_portions: int) -> Iterator[Record]:
    """The records of all tables; prints a line with the rate for every few portions."""
    start, num_done, num_records = time.perf_counter(), 0, 0
    for table in tables:
        records = [Record(**row) for row in table.to_pylist()]
        num_records += len(records)
        num_done += sum(record.record == TIME for record in records)
        rate = num_records / (time.perf_counter() - start)
        print(
            f"evaluate: {num_done} of {num_portions} portions, {num_records} records, {rate:.0f}/s",
            flush=True,
        )
        yield from records


def main(
    curated: Path, compressor: Path, store: Path, output: Path, metrics: Path, timings: Path
) -> None:
    """Answer, search and rank from the stored tokens, and score it."""
    die_with_parent()
    evaluate(
        load_params("evaluate", EvaluateParams),
        curated,
        compressor,
        store,
        output,
        metrics,
        timings,
    )


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("evaluate")

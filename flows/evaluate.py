"""Stage `evaluate`: score the compressor from its stored tokens, and references beside it.

    python -m flows.evaluate CURATED COMPRESSOR STORE OUTPUT METRICS HEADLINE TIMINGS

CURATED holds pictures, questions, captions, caption pairs and queries; STORE the summary tokens of
the pictures of the split. OUTPUT gets answers.jsonl, captions.jsonl, compositionality.jsonl and
plots/*.csv, METRICS every score, HEADLINE a dozen of them. A picture that is not in the store (for
the systems that open pictures: that cannot be opened) counts as wrong everywhere, and is counted
under `missing`. Every system is scored once more on the hard subset: what the base gets wrong from
a downsampled picture.
"""

import time
from collections import defaultdict
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
from components.evaluation.asking import (
    ANSWER,
    COST,
    IMAGE,
    IMAGES,
    LENGTH,
    SIZE,
    TEXT,
    TEXTS,
    TIME,
    Record,
)
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.headline import NAMES, headline_scores
from components.evaluation.question_set import QuestionSet, read_question_set
from components.evaluation.recall import MAXSIM, MEAN, RANKINGS
from components.evaluation.systems import (
    COMPRESSED,
    DOWNSAMPLED,
    UNCOMPRESSED,
    check_downsampling,
)
from components.files.outputs import json_of, json_with, new_file, new_folder
from components.methods.catalogue import method_class
from components.methods.checkpoint import CompressorConfig
from components.methods.method_settings import FWD2BOT
from components.params import load_params
from components.store.not_stored import reason_not_stored
from components.store.store_reader import StoreReader
from flows.running.cluster import connect
from flows.running.lifetime import die_with_parent
from flows.workers.evaluate_worker import EvaluationWorker, Task, pictures_to_caption


def evaluate(
    params: EvaluateParams,
    curated: Path,
    compressor: Path,
    store: Path,
    output: Path,
    metrics: Path,
    headline: Path,
    timings: Path,
) -> None:
    """Put all questions to all systems, score them, and write the results whole or not at all.

    Raises OutputError before anything is asked.
    """
    start = time.perf_counter()
    inputs = [curated, compressor, store]
    are_metrics = json_with("compressed", "costs", "method")
    are_timings = json_with("compressed", "scoring")
    with (
        new_folder("evaluate", output, [*inputs, metrics, headline, timings]) as folder,
        new_file(metrics, are_metrics, [*inputs, headline, timings]) as metrics_file,
        new_file(headline, json_of(NAMES), [*inputs, timings]) as headline_file,
        new_file(timings, are_timings, inputs) as timings_file,
    ):
        # Which systems, and which questions.
        systems = (COMPRESSED, *params.references)
        question_set = read_question_set(curated, params.split)
        config = check_inputs(question_set, compressor, store)
        params = with_possible_rankings(params, config)
        if DOWNSAMPLED in systems:
            base, num_tokens = find_base(compressor, None), config.compressor.num_summary_tokens
            check_downsampling(base, config.base_revision, num_tokens)

        # The workers take tasks, and give back records of all outputs.
        tasks = plan_tasks(params, systems, question_set)
        records = list(run_tasks(params, tasks, curated, compressor, store))
        asked = time.perf_counter()

        # Scores, and the files that hold them.
        results = score(params, question_set, config, records)
        seconds = {"asking": asked - start, "scoring": time.perf_counter() - asked}
        publication.write_folder(folder, results)
        publication.write_json(metrics_file, results["metrics"])
        publication.write_json(headline_file, headline_scores(results["metrics"]))
        publication.write_json(timings_file, publication.timing_table(records, seconds))
    print(f"evaluate: done in {time.perf_counter() - start:.0f} s, scores in {metrics}", flush=True)


def check_inputs(question_set: QuestionSet, compressor: Path, store: Path) -> CompressorConfig:
    """Return the compressor's settings, with as many summary tokens as the store has.

    Raises ValueError: another base model; a store of another model, or of other pictures
    altogether (single ones may be missing).
    """
    config = read_config(compressor)
    check_base(compressor, find_base(compressor, None))
    if reason_not_stored(store):
        return config

    # A store of other pictures would count everything as wrong, hours later.
    tokens = StoreReader.open(store)
    check_same_model(tokens.provenance, compressor)
    image_ids = question_set.image_ids
    num_stored = sum(image_id in tokens for image_id in image_ids)
    if not num_stored:
        raise ValueError(
            f"{tokens.folder}: holds none of the {len(image_ids)} pictures that are asked about; "
            "compress the pictures of the split that evaluate.split names"
        )
    print(f"evaluate: {num_stored} of {len(image_ids)} pictures are stored", flush=True)

    # The store may hold the first tokens only.
    changes = {"num_summary_tokens": tokens.provenance.num_summary_tokens}
    shortened = config.compressor.model_copy(update=changes)
    return config.model_copy(update={"compressor": shortened})


def with_possible_rankings(params: EvaluateParams, config: CompressorConfig) -> EvaluateParams:
    """Leave out MaxSim, and say so, when the method makes no summary tokens of a text."""
    name = config.method.name
    if MAXSIM not in params.rankings or method_class(name).embeds_by_mean:
        return params
    print(f"evaluate: no MaxSim: {name} makes no summary tokens of a text", flush=True)
    return params.model_copy(update={"rankings": (MEAN,)})


def plan_tasks(
    params: EvaluateParams, systems: Sequence[str], question_set: QuestionSet
) -> list[Task]:
    """Cut the work into tasks: captions and queries to embed, then pictures per system.

    Tasks of one system stand together, as a worker holds one model at a time.
    """
    # Apart, so that a caption is batched with the same ones whatever is searched for.
    captions = question_set.texts(params.captions_per_picture)
    queries = question_set.query_texts(params.captions_per_picture)
    tasks: list[Task] = []
    size = params.texts_per_task
    for texts in (captions, queries):
        for start in range(0, len(texts), size):
            portion = texts[start : start + size]
            tasks.append({"system": COMPRESSED, "image_ids": [], "texts": portion})

    image_ids, size = question_set.image_ids, params.pictures_per_task
    for system in systems:
        for start in range(0, len(image_ids), size):
            some = image_ids[start : start + size]
            tasks.append({"system": system, "image_ids": some, "texts": []})
    return tasks


def run_tasks(
    params: EvaluateParams, tasks: Sequence[Task], curated: Path, compressor: Path, store: Path
) -> Iterator[Record]:
    """Yield the records of all tasks, from `num_workers` actors.

    The tasks alone decide what is batched with what.
    """
    connect()
    # Absolute paths: a worker need not run in this folder.
    arguments = {
        "params": params.model_dump(),
        "curated": str(curated.resolve()),
        "compressor": str(compressor.resolve()),
        "store": str(store.resolve()),
    }

    # A block per task, each to whichever worker is free.
    tables = (
        ray.data.from_items(list(tasks), override_num_blocks=len(tasks))
        .map_batches(
            EvaluationWorker,
            fn_constructor_kwargs=arguments,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=params.num_workers),
            num_cpus=params.cpus_per_worker,
            num_gpus=params.gpus_per_worker,
        )
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    return with_progress(tables, len(tasks))


def with_progress(tables: Iterable[pa.Table], num_tasks: int) -> Iterator[Record]:
    """Yield the records of all tables; prints a line with the rate for every few tasks."""
    start, num_done, num_records = time.perf_counter(), 0, 0
    for table in tables:
        rows = table.to_pylist()
        num_records += len(rows)
        # Every portion ends with one TIME record.
        num_done += sum(row["record"] == TIME for row in rows)
        rate = num_records / (time.perf_counter() - start)
        print(
            f"evaluate: {num_done} of {num_tasks} portions, {num_records} records, {rate:.0f}/s",
            flush=True,
        )
        for row in rows:
            yield Record(**row)


def score(
    params: EvaluateParams,
    question_set: QuestionSet,
    config: CompressorConfig,
    records: Sequence[Record],
) -> dict[str, Any]:
    """Return everything that is published: the rows of each file, and the metrics."""
    outputs = {(record.system, record.record, record.key): record for record in records}
    embeddings = scorecard.Embeddings(vectors(records, IMAGE), vectors(records, TEXT))

    # One scored row per question, caption and pair, of every system.
    answers = scorecard.answer_rows(question_set, outputs)
    captioned = pictures_to_caption(params, question_set)
    captions = scorecard.caption_rows(question_set, captioned, outputs)
    pairs = scorecard.pair_rows(question_set, outputs, embeddings)

    # Scores of every system; only the compressor has embeddings to retrieve by.
    systems, bootstrap = (COMPRESSED, *params.references), params.bootstrap
    metrics: dict[str, Any] = {}
    for system in systems:
        metrics[system] = scorecard.system_metrics(system, answers, captions, pairs, bootstrap)

    # The same questions for all, whoever finds them hard.
    if DOWNSAMPLED in systems:
        hard = scorecard.hard_rows(answers)
        for system in systems:
            metrics[system]["hard"] = scorecard.answer_metrics(system, hard, bootstrap)
    if embeddings.images:
        metrics[COMPRESSED] |= search_metrics(params, question_set, config, records)

    # Bytes and operations, beside what was compared.
    size, workload, method = cost_inputs(systems, config, records)
    metrics["costs"] = cost_table(size, workload, method)
    metrics["method"] = {
        "name": config.method.name,
        "tuning": config.method.tuning,
        "num_tokens": config.compressor.num_summary_tokens,
        "is_stored": method.is_stored,
    }
    return {"answers": answers, "captions": captions, "compositionality": pairs, "metrics": metrics}


def search_metrics(
    params: EvaluateParams,
    question_set: QuestionSet,
    config: CompressorConfig,
    records: Sequence[Record],
) -> dict[str, Any]:
    """Return the scores of embeddings: `retrieval` and `partial_queries`.

    If MaxSim is wanted, also `retrieval_maxsim`, `partial_queries_maxsim` and
    `compositionality_maxsim`; that of the mean has rows of its own.
    """
    found = {}
    for name in params.rankings:
        images, texts = vectors(records, IMAGES[name]), vectors(records, TEXTS[name])
        if name == MAXSIM:
            images, texts = by_token(images, config.dim), by_token(texts, config.dim)
        embeddings, ranking = scorecard.Embeddings(images, texts), RANKINGS[name]
        ending = "" if name == MEAN else f"_{name}"

        if question_set.captions:
            found[f"retrieval{ending}"] = scorecard.retrieval_metrics(
                question_set, embeddings, ranking, params.captions_per_picture, params.bootstrap
            )
        if question_set.queries:
            found[f"partial_queries{ending}"] = scorecard.partial_query_metrics(
                question_set, embeddings, ranking, params.bootstrap
            )
        if name != MEAN and question_set.all_pairs():
            found[f"compositionality{ending}"] = scorecard.pair_similarity_metrics(
                question_set, embeddings, ranking, params.bootstrap
            )
    return found


def by_token(vectors: Mapping[str, np.ndarray], dim: int) -> dict[str, np.ndarray]:
    """Cut each of the vectors (tokens · dim,) into tokens (tokens, dim)."""
    return {key: vector.reshape(-1, dim) for key, vector in vectors.items()}


def vectors(records: Sequence[Record], kind: str) -> dict[str, np.ndarray]:
    """Return the embeddings among the records of a kind, by their keys."""
    found = {}
    for record in records:
        if record.record == kind:
            found[record.key] = np.array(record.embedding, np.float32)
    return found


def cost_inputs(
    systems: Sequence[str], config: CompressorConfig, records: Sequence[Record]
) -> tuple[ModelSize, Workload, MethodCosts]:
    """Return the size of the base model, mean lengths of what is read, and the method's costs."""
    numbers: dict[tuple[str, str], float] = {}
    lengths: dict[str, list[float]] = defaultdict(list)  # by system
    for record in records:
        if record.record in (SIZE, COST):
            numbers[record.record, record.key] = record.first or 0
        elif record.record == LENGTH:
            lengths[record.system].append(record.first or 0)
    weights = [int(numbers[SIZE, field]) for field in ModelSize._fields]
    size = ModelSize(*weights)

    # Mean lengths of prompts and of answers.
    question_tokens = mean_lengths(systems, records, "first")
    answer_tokens = mean_lengths(systems, records, "second")

    # Image tokens are counted where a system reads all of them.
    known = lengths[UNCOMPRESSED if UNCOMPRESSED in systems else COMPRESSED]
    if not known:
        raise ValueError(
            "none of the pictures that are asked about can be opened, so that nothing can be "
            "compared; curate again"
        )
    image_tokens, kept = round(float(np.mean(known))), config.compressor.num_summary_tokens
    shrunk = round(float(np.mean(lengths[DOWNSAMPLED] or [0])))

    # A cost that was not recorded stays None: the method has no such step.
    costs = {field: numbers.get((COST, field)) for field in MethodCosts._fields}
    method = MethodCosts(**costs)._replace(is_stored=bool(costs["is_stored"]))  # type: ignore[arg-type]  # one by one
    # By the paper's formula; the counter sees what is not computed for nothing.
    if config.method.name == FWD2BOT:
        method = method._replace(per_picture=compression_flops(size, image_tokens, kept))
    load = Workload(image_tokens, kept, shrunk, config.dim, question_tokens, answer_tokens)
    return size, load, method


def mean_lengths(systems: Sequence[str], records: Sequence[Record], field: str) -> dict[str, float]:
    """Return {system: mean of this field of its ANSWER records}, 0 where it answers nothing."""
    lengths: dict[str, list[float]] = {system: [] for system in systems}
    for record in records:
        if record.record == ANSWER and record.system in lengths:
            lengths[record.system].append(getattr(record, field))
    return {system: float(np.mean(values or [0])) for system, values in lengths.items()}


def main(
    curated: Path,
    compressor: Path,
    store: Path,
    output: Path,
    metrics: Path,
    headline: Path,
    timings: Path,
) -> None:
    """Answer, search and rank from the stored tokens, and score it."""
    die_with_parent()
    params = load_params("evaluate", EvaluateParams)
    evaluate(params, curated, compressor, store, output, metrics, headline, timings)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("evaluate")

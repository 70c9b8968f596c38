"""Stage `curate`: raw instruction data, caption pairs and benchmarks -> checked, deduplicated, split Parquet.

    python -m flows.curate data/raw data/curated

Ray checks every row (decoding is the work) and writes staging files; the driver decides from a few facts per row who
stays and in which split; Ray writes the shards. Two runs on the same input give the same bytes.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import ray
from pydantic import Field
from ray.data import TaskPoolStrategy

from components.curation.accounting import check_reject_fractions, count_outcomes, reject_table, write_report
from components.curation.benchmarks import write_benchmarks
from components.curation.candidates import CandidateParams
from components.curation.decisions import decide, outcomes_of, plan_output
from components.curation.deduplication import Checked
from components.curation.progress import log_progress
from components.curation.sources import Source, SourceName
from components.curation.tables import (
    Shard,
    decode_checked,
    decode_shard,
    encode_checked,
    encode_shard,
    write_shard,
    write_table,
)
from components.curation.work import Work, check_work, count_rows_in, decode_work, encode_work, list_work
from components.params import Params, load_params
from flows import cluster
from flows.lifetime import die_with_parent

log = logging.getLogger("curate")


class CurateParams(Params):
    """Rules and sizes of curation."""

    seed: int  # of the split
    validation_fraction: Annotated[float, Field(ge=0, lt=1)]  # of training pictures
    sources: Annotated[dict[SourceName, Source], Field(min_length=1)]  # of training rows, in this order
    candidates: CandidateParams
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)]  # of the rows of a source; more fails the stage
    max_answer_fraction: Annotated[float, Field(gt=0, le=1)]  # of short answers that may be the same
    num_workers: Annotated[int, Field(ge=1)]  # tasks at a time, one CPU each
    rows_per_task: Annotated[int, Field(ge=1)]
    rows_per_shard: Annotated[int, Field(ge=1)]


def curate(params: CurateParams, raw: Path, output: Path) -> None:
    """Write the curated tables, the reject table, the report and the validation results to `output`."""
    raw, output = raw.resolve(), output.resolve()
    partial, staging = (output.with_name(f"{output.name}.{suffix}") for suffix in ("partial", "staging"))
    for folder in (partial, staging):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    work = list_work(raw, staging, params.sources, params.rows_per_task)
    cluster.connect()
    rows = check_rows(work, raw, staging, params)
    decisions = decide(rows, params.sources, params.candidates, params.seed, params.validation_fraction)
    write_shards(plan_output(decisions, params.rows_per_shard), staging, partial, params.num_workers)
    found, listed = write_benchmarks(raw, partial, decisions.kept_pictures(), params.candidates.text)
    outcomes = [*outcomes_of(decisions), *found]
    write_table(reject_table(outcomes), partial / "rejects.parquet", compression="zstd")
    report = count_outcomes(outcomes, {**count_rows_in(work, rows), **listed})
    write_report(report, partial / "report.json")
    check_reject_fractions(report, params.max_reject_fraction)
    validate(params, partial)
    shutil.rmtree(staging)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)


def check_rows(work: Sequence[Work], raw: Path, staging: Path, params: CurateParams) -> list[Checked]:
    """Check every row on the cluster; the facts come back in input order, whatever order the tasks ended in."""

    def check(piece: dict[str, str]) -> dict[str, str]:
        return {
            "text": encode_checked(
                check_work(decode_work(piece["text"]), raw, staging, params.sources, params.candidates)
            )
        }

    results = map(decode_checked, run_tasks(check, [encode_work(piece) for piece in work], params.num_workers))
    rows = chain.from_iterable(log_progress(results, "checked", len(work), log))
    return sorted(rows, key=lambda row: (row.task, row.number))


def write_shards(shards: Sequence[Shard], staging: Path, output: Path, num_workers: int) -> None:
    """Write the planned files on the cluster."""

    def write(piece: dict[str, str]) -> dict[str, str]:
        write_shard(decode_shard(piece["text"]), staging, output)
        return piece

    results = (decode_shard(text).rows for text in run_tasks(write, [encode_shard(s) for s in shards], num_workers))
    for _ in log_progress(results, "written", len(shards), log):
        pass


def run_tasks(
    task: Callable[[dict[str, str]], dict[str, str]], pieces: Sequence[str], num_workers: int
) -> Iterator[str]:
    """Run `task` on every piece on the cluster, at most `num_workers` at a time; results as they come."""
    dataset = ray.data.from_items([{"text": piece} for piece in pieces], override_num_blocks=len(pieces))
    for row in dataset.map(task, compute=TaskPoolStrategy(size=num_workers)).iter_rows():
        yield row["text"]


def validate(params: CurateParams, curated: Path) -> None:
    """Raises ValueError that names every failed critical expectation; the results stay beside the tables."""
    from components.curation import expectations  # takes seconds to import, and workers import this file

    rules: dict[str, Any] = {"pictures": params.candidates.pictures, "text": params.candidates.text}
    suites = expectations.curated_suites(curated, **rules, max_answer_fraction=params.max_answer_fraction)
    failed = expectations.validate(suites, curated / "expectations")
    if failed:
        page = curated / "expectations" / "data_docs" / "index.html"
        raise ValueError("\n".join(["curated data break these expectations:", *failed, f"details: {page}"]))


if __name__ == "__main__":
    die_with_parent()
    logging.basicConfig(format="%(name)s: %(message)s")
    log.setLevel(logging.INFO)
    try:
        curate(load_params("curate", CurateParams), *map(Path, sys.argv[1:]))
    except ValueError as error:  # bad params or bad data, said in words; the tables so far are in <output>.partial
        sys.exit(f"curate: {error}")

"""Stage `curate`: raw instruction data, caption pairs and benchmarks -> checked, split Parquet.

    python -m flows.curate data/raw data/curated

Ray checks every row (decoding is the work) and writes staging files; the driver decides from a few
facts per row, on the disk, who stays and in which split; Ray writes the shards. Two runs on the
same input give the same bytes, also when one of them was killed and run again.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated

from duckdb import DuckDBPyConnection
from pydantic import Field

from components.curation.accounting import (
    check_reject_fractions,
    count_decided,
    count_outcomes,
    make_report,
    write_rejects,
    write_report,
)
from components.curation.candidates import CandidateParams
from components.curation.database import open_database
from components.curation.decisions import decide, kept_pictures, rows_of_tasks
from components.curation.evaluation_files import write_benchmarks
from components.curation.fingerprint import fingerprint
from components.curation.pieces import (
    EVALUATION_SPLITS,
    Work,
    check_work,
    count_rows_in,
    decode_work,
    encode_work,
    list_work,
)
from components.curation.query_files import check_query_files, write_queries
from components.curation.training_sources import Source, SourceName
from components.curation.written_tables import facts_path, plan_shards, write_shard
from components.files.locks import BusyError
from components.files.outputs import checked_place, new_folder
from components.files.unfinished import discard, hold, leave, open_work
from components.params import Params, load_params
from flows.running import cluster
from flows.running.allowed_roots import allowed_roots
from flows.running.lifetime import die_with_parent
from flows.running.progress import Progress

# 100MB, 200MB, …, 1GB, …
MemoryLimit = Annotated[str, Field(pattern="^[1-9][0-9]{0,3}(00MB|GB)$")]


class CurateParams(Params):
    """Rules and sizes of curation."""

    seed: int  # of the split
    validation_fraction: Annotated[float, Field(ge=0, lt=1)]  # of training pictures
    # of training rows, in this order
    sources: Annotated[dict[SourceName, Source], Field(min_length=1)]
    candidates: CandidateParams
    # of the rows of a source; more fails the stage
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)]
    # of short answers that may be the same
    max_answer_fraction: Annotated[float, Field(gt=0, le=1)]
    num_workers: Annotated[int, Field(ge=1)]  # tasks at a time, one CPU each
    rows_per_task: Annotated[int, Field(ge=1)]
    rows_per_shard: Annotated[int, Field(ge=1)]
    memory_limit: MemoryLimit  # of the decisions about all rows; beyond it they use the disk
    # samples drawn to be checked against the rules of single rows
    expectation_rows: Annotated[int, Field(ge=1)]


def curate(params: CurateParams, raw: Path, output: Path) -> None:
    """Write the curated tables, the rejects, the report and the validation results to `output`.

    A run that was killed goes on where it was: the rows that were checked are not checked again.
    """
    # Staging lies beside the output, and outlives a run that is killed.
    raw, output = raw.resolve(), checked_place(output, [raw])
    place = output.with_name(f"{output.name}.staging")
    with new_folder("curate", output, [raw, place]) as partial:
        params = with_allowed_roots(params)
        key = fingerprint(raw, params.sources, params.candidates, params.rows_per_task)[:16]
        with open_staging(place, key) as staging:
            write_curated(params, raw, staging, partial)
    remove_staging(staging)


def write_curated(params: CurateParams, raw: Path, staging: Path, partial: Path) -> None:
    """Check all rows, decide about them, and write everything into the folder `partial`."""
    for split in check_query_files(raw, EVALUATION_SPLITS):
        print(f"curate: evaluation/{split} has no queries, so they get no scores", flush=True)

    rules = params.candidates
    work = list_work(raw, staging, params.sources, params.rows_per_task, rules.allowed_roots)
    check_rows(work, raw, staging, params)

    decisions = open_database(staging / "decisions.duckdb", params.memory_limit, params.num_workers)
    with closing(decisions) as database:
        # the tables of training rows and evaluation pictures
        facts = [facts_path(staging, piece.task) for piece in work]
        decide(database, facts, params.sources, rules, params.seed, params.validation_fraction)
        shards = list(plan_shards(database, staging, params.rows_per_shard))
        write_shards(shards, staging, partial, params.num_workers)

        # questions, captions and queries of the evaluation pictures that were kept
        pictures = kept_pictures(database)
        outcomes, listed = write_benchmarks(raw, partial, pictures, rules.text)
        of_queries, queries_listed = write_queries(raw, partial, pictures, rules.text)
        outcomes, listed = outcomes + of_queries, listed | queries_listed

        # an account of every row, before anything is judged by it
        write_rejects(database, outcomes, partial / "rejects.parquet")
        rows_in = {**count_rows_in(work, rows_of_tasks(database), params.sources), **listed}
        report = make_report([count_decided(database), count_outcomes(outcomes)], rows_in)
        write_report(report, partial / "report.json")
        check_reject_fractions(report, params.max_reject_fraction)
        validate(params, database, partial)


def with_allowed_roots(params: CurateParams) -> CurateParams:
    """Return params whose allowed roots are absolute, with DVC's cache among them."""
    roots = allowed_roots(params.candidates.allowed_roots)
    candidates = params.candidates.model_copy(update={"allowed_roots": roots})
    return params.model_copy(update={"candidates": candidates})


@contextmanager
def open_staging(place: Path, key: str) -> Iterator[Path]:
    """Yield the staging folder of runs with this fingerprint; list other runs' folders.

    Raises BusyError when another run is at work.
    """
    with hold(place):
        yield open_work(place, key)


def remove_staging(staging: Path) -> None:
    """Remove the staging of a run that has ended well, unless another has begun to use it."""
    with suppress(BusyError), hold(staging.parent):
        discard(staging)
        leave(staging.parent)


def check_rows(work: Sequence[Work], raw: Path, staging: Path, params: CurateParams) -> None:
    """Check every row on the cluster; pieces that an earlier run finished are left as they are."""
    # Rows at work when the last run was killed are not to blame for that.
    shutil.rmtree(staging / "running", ignore_errors=True)

    # The facts of a piece are written last.
    todo = [piece for piece in work if not facts_path(staging, piece.task).exists()]
    if len(todo) < len(work):
        num_done = len(work) - len(todo)
        print(f"curate: {num_done} of {len(work)} pieces were checked before", flush=True)

    def check(piece: str) -> int:
        return check_work(decode_work(piece), raw, staging, params.sources, params.candidates)

    numbers = cluster.run_tasks(check, list(map(encode_work, todo)), params.num_workers)
    show_progress(numbers, "checked", len(todo))


def write_shards(paths: Sequence[str], staging: Path, output: Path, num_workers: int) -> None:
    """Write the planned files on the cluster."""

    def write(path: str) -> int:
        return write_shard(path, staging, output)

    show_progress(cluster.run_tasks(write, paths, num_workers), "written", len(paths))


def show_progress(numbers: Iterable[int], what: str, num_parts: int) -> None:
    """Print how far tasks are, each of which ends with its number of rows."""
    progress, num_rows = Progress("curate", "rows", num_parts), 0
    for done, rows in enumerate(numbers, start=1):
        num_rows += rows
        progress.show(done, f"{num_rows} rows {what}, {done} of {num_parts} parts", num_rows)


def validate(params: CurateParams, database: DuckDBPyConnection, curated: Path) -> None:
    """Raise ValueError that names every failed critical expectation; results stay in `curated`."""
    # takes seconds to import, and workers import this file
    from components.curation import data_checks, expectations

    # Results are written before anything is raised: they show what is wrong.
    pictures, text = params.candidates.pictures, params.candidates.text
    suites = expectations.curated_suites(
        database, curated, pictures, text, params.max_answer_fraction, params.expectation_rows
    )
    failed = data_checks.validate(suites, curated / "expectations")
    if failed:
        page = curated / "expectations" / "data_docs" / "index.html"
        lines = ["curated data break these expectations:", *failed, f"details: {page}"]
        raise ValueError("\n".join(lines))


def main(raw: Path, output: Path) -> None:
    """Check, deduplicate and split the sources into Parquet."""
    die_with_parent()
    curate(load_params("curate", CurateParams), raw, output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("curate")

"""Batch job `answer_corpus`: many questions about the pictures of a compressed corpus.

    fwd2bot answer-corpus questions.jsonl answers.jsonl --store data/compressed/test

Ray Data hands planned pieces to workers that load the model once; a run that was killed goes on
from the finished pieces, and the answers appear by one rename, after their rejects and their
manifest. No picture is opened. docs/answering.md.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from components.answering.decoding import DecodingParams
from components.answering.job_pieces import plan_pieces
from components.answering.questions import ASK, About, Reject
from components.answering.results import (
    SUFFIXES,
    Asked,
    answers_bytes,
    is_manifest,
    is_rejects,
    merge_pieces,
    reject_counts,
    rejects_bytes,
    sidecar,
)
from components.compression.identity import check_base, check_same_model, find_base
from components.files.atomic import sha256_of
from components.files.outputs import check_apart, check_file
from components.files.written import OutputError
from components.methods.catalogue import code_of
from components.methods.method_settings import FWD2BOT
from components.store.manifest import MANIFEST, describe_file, publish, write_json
from components.store.provenance import method_of
from components.store.store_reader import StoreReader
from components.store.unfinished_store import fingerprint, finished_shard, shard_name, work_folder
from flows.running.cluster import check_resources, connect
from flows.running.progress import Progress
from flows.running.stored_corpus import quiet_libraries
from flows.workers.answer_corpus_worker import AnswerParams, QuestionAnswerer

LIBRARIES = ("peft", "torch", "transformers")
ENTRIES = ("flows.workers.answer_corpus_worker",)  # imports all code that makes the answers


def answer_corpus(
    params: AnswerParams,
    questions: Path,
    output: Path,
    folder: Path,
    compressor: Path,
    base: str | None,
    about: About,
) -> dict[str, Any]:
    """Answer the questions of a file into `output`; returns the manifest. Raises ValueError.

    A finished output of the same questions, store and settings is left as it is.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(
            f"{output}: answers are written as {' or '.join(SUFFIXES)}; choose such a name"
        )
    check_place(output, [questions, folder, compressor, *([base] if base else [])])
    output, folder, compressor = output.resolve(), folder.resolve(), compressor.resolve()

    # the store must be of this compressor, and an output that is there, of these inputs
    store = StoreReader.open(folder)
    check_same_model(store.provenance, compressor)
    inputs = _inputs(params, questions, store, about)
    if output.exists():
        return check_finished(output, inputs)
    base = find_base(compressor, base)
    check_base(compressor, base)

    # questions that can be asked, cut into pieces
    image_ids = {image_id: number for number, image_id in enumerate(store.ids)}
    asked, rejects = ASK[about](questions, image_ids)
    if not asked:
        raise ValueError(
            f"{questions}: none of {len(rejects)} rows can be asked: {_examples(rejects)}"
        )
    pieces = list(plan_pieces(asked, image_ids, params.rows_per_piece))

    # finished pieces of a killed run count only for the same inputs and the same code
    code = code_of(ENTRIES, method_of(store.provenance) or FWD2BOT)
    with work_folder(output, fingerprint({**inputs, "code": code})) as work:
        task = {
            "work": str(work),
            "store": str(folder),
            "compressor": str(compressor),
            "base": base,
        }
        answer_pieces(params, task, pieces, work)
        return publish_answers(work, output, len(pieces), inputs, rejects)


def check_place(output: Path, inputs: Sequence[Path | str]) -> None:
    """Raise OutputError when the answers, or files beside them, would replace other files.

    Answers that are there already are left alone; `check_finished` looks into them.
    """
    ours = {"": lambda _: True, "rejects.jsonl": is_rejects, "manifest.json": is_manifest}
    for name, is_ours in ours.items():
        path = sidecar(output, name) if name else output
        check_apart(path, inputs)
        check_file(path, is_ours)


def answer_pieces(
    params: AnswerParams, task: dict[str, Any], pieces: Sequence[list[Asked]], work: Path
) -> None:
    """Finish every piece; pieces of an earlier run are only checked."""
    todo = unfinished(work, len(pieces))
    total, left = sum(map(len, pieces)), sum(len(pieces[number]) for number in todo)
    print(
        f"answer_corpus: {total} questions, {total - left} of them answered by an earlier run",
        flush=True,
    )

    if todo:
        progress, done = Progress("answer_corpus", "questions", left), 0
        for number in run_workers(params, task, pieces, todo):
            done += len(pieces[number])
            progress.show(done, f"{done}/{left} questions", done)

    # workers of another machine may have written to a folder of their own
    if missing := unfinished(work, len(pieces)):
        raise ValueError(
            f"{work}: pieces {missing} are not whole; "
            "do all machines of the cluster share this folder?"
        )


def unfinished(work: Path, num_pieces: int) -> list[int]:
    """Return the numbers of the pieces that are not finished yet."""
    return [number for number in range(num_pieces) if finished_shard(work, number) is None]


def run_workers(
    params: AnswerParams, task: dict[str, Any], pieces: Sequence[list[Asked]], todo: Sequence[int]
) -> Iterator[int]:
    """Give the numbers of the pieces as the workers finish them, in any order."""
    connect()
    num_workers = min(params.num_workers, len(todo))

    # said at once: Ray would wait for the machine without end
    try:
        check_resources(num_workers, params.cpus_per_worker, params.gpus_per_worker)
    except ValueError:
        raise ValueError(
            f"{num_workers} workers of {params.cpus_per_worker} CPUs and {params.gpus_per_worker} "
            "GPUs are more than this machine has; lower --num-workers, --cpus-per-worker or "
            "--gpus-per-worker, or set RAY_ADDRESS"
        ) from None

    # one block per piece, so that each is handed out by itself
    rows = [{"piece": json.dumps([number, pieces[number]])} for number in todo]
    finished = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        QuestionAnswerer,  # type: ignore[arg-type]  # Ray's signature knows functions only
        fn_constructor_args=(params.model_dump(), task),
        compute=ActorPoolStrategy(size=num_workers),
        num_cpus=params.cpus_per_worker,
        num_gpus=params.gpus_per_worker,
    )
    for row in finished.iter_rows():
        yield int(row["number"])


def publish_answers(
    work: Path, output: Path, num_pieces: int, inputs: dict[str, Any], rejects: Sequence[Reject]
) -> dict[str, Any]:
    """Publish rejects, manifest and answers, each by a rename; returns the manifest."""
    # hours may have passed since the first look
    check_place(output, [])
    if output.exists():
        raise OutputError(
            f"{output}: appeared while the questions were answered; move it and run again"
        )

    pieces = [work / "shards" / shard_name(number) for number in range(num_pieces)]
    answers, unanswered = merge_pieces(pieces)
    rejects = [*rejects, *unanswered]

    # answers come last: where they are, the other two are whole
    aside = work / "aside"
    beside, finished = sidecar(output, "rejects.jsonl"), aside / output.name
    publish(beside, rejects_bytes(rejects), aside)
    publish(finished, answers_bytes(answers, output.suffix), aside)
    manifest = {
        **inputs,
        "rows_in": answers.num_rows + len(rejects),
        "rows_answered": answers.num_rows,
        "rows_rejected": reject_counts(rejects),
        "answers": describe_file(finished, answers.num_rows).model_dump(),
        "rejects": describe_file(beside, len(rejects)).model_dump(),
    }
    write_json(sidecar(output, "manifest.json"), manifest, aside)
    finished.rename(output)
    shutil.rmtree(work)
    return manifest


def check_finished(output: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of finished answers of the same inputs. Raises ValueError for others."""
    # inputs first, then the bytes: somebody may have edited the answers
    try:
        manifest: dict[str, Any] = json.loads(sidecar(output, "manifest.json").read_bytes())
        is_same = {name: manifest[name] for name in inputs} == inputs
        found = describe_file(output, manifest["rows_answered"]).model_dump()
        is_whole = found == manifest["answers"]
    except (OSError, ValueError, KeyError):
        is_same = is_whole = False

    if not (is_same and is_whole):
        raise ValueError(
            f"{output}: exists, and holds something else than this run would write; "
            "remove or rename it"
        )
    return manifest


def _inputs(
    params: AnswerParams, questions: Path, store: StoreReader, about: About
) -> dict[str, Any]:
    """Return everything that decides the answers."""
    return {
        "questions": {
            "sha256": sha256_of(questions),
            "suffix": questions.suffix,
            "every_picture": about == "every_picture",
        },
        "store": {
            "manifest_sha256": sha256_of(store.folder / MANIFEST),
            "provenance": store.provenance.model_dump(mode="json"),
        },
        "settings": params.settings(),
        "libraries": {library: version(library) for library in LIBRARIES},
    }


def _examples(rejects: Sequence[Reject]) -> str:
    """Return the counts of rejects by reason, and the first three."""
    shown = [f"row {reject.row}: {reject.reason}: {reject.detail}" for reject in rejects[:3]]
    return "; ".join([str(reject_counts(rejects)), *shown])


def main(
    questions: Path,
    output: Path,
    store: Path,
    compressor: Path,
    base: str | None,
    every_picture: bool,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int,
    rows_per_piece: int,
    num_workers: int,
    cpus_per_worker: int,
    gpus_per_worker: int,
) -> None:
    """Answer the questions, and print how many."""
    quiet_libraries()
    decoding = DecodingParams(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    params = AnswerParams(
        decoding=decoding,
        batch_size=batch_size,
        rows_per_piece=rows_per_piece,
        num_workers=num_workers,
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
    )
    about: About = "every_picture" if every_picture else "own_picture"
    manifest = answer_corpus(params, questions, output, store, compressor, base, about)

    answered, rows_in = manifest["rows_answered"], manifest["rows_in"]
    rejects = manifest["rows_rejected"] or 0
    print(f"answer_corpus: {output} answers {answered} of {rows_in} rows, rejects: {rejects}")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("answer_corpus")

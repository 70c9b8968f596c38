"""Stage `train`: curated samples and a frozen base LVLM -> a compressor.

    python -m flows.train CURATED BASE COMPRESSOR METRICS TIMINGS STATE

BASE is a folder or a hub id. COMPRESSOR (two adapters, summary queries, logit scale) appears whole
or not at all. METRICS are DVCLive files, the same in every run; TIMINGS are those that differ from
run to run. STATE holds the checkpoints of unfinished runs: the same command goes on from the last
one, whatever ended the run before; those of other runs are listed and stay (`python -m
flows.runs`). SIGTERM or Ctrl-C saves a checkpoint and ends with an error. On several machines the
folders are shared ones.
"""

import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from components import schema
from components.files.outputs import growing_folder, new_folder
from components.files.unfinished import discard, hold, open_work
from components.methods.catalogue import choose_method
from components.methods.method_settings import ChosenMethod
from components.model.loading import check_base_model
from components.params import load_params
from components.training.loop import Outcome
from components.training.run_folder import (
    HISTORY,
    NOTES,
    RESULT,
    SAMPLES,
    STOP,
    forget_damaged_checkpoints,
    read_history,
)
from components.training.run_name import run_name
from components.training.samples import write_sample_file
from components.training.training_settings import TrainParams
from flows.running.cluster import check_resources, connect
from flows.running.lifetime import die_with_parent
from flows.running.metric_files import PATTERNS, MetricFiles, are_timings
from flows.workers.train_worker import train_worker

KEPT_CHECKPOINTS = 2  # the last one may turn out to be damaged
ENTRIES = ("flows.train", "flows.workers.train_worker")  # what they import is the code of a run
SECONDS_BETWEEN_LOOKS = 1.0
ENDINGS = {
    Outcome.STOPPED: (
        "stopped on request at step {step}; run the same command again to go on from there"
    ),
    Outcome.DIVERGED: (
        "after step {step} too many gradients were not finite; lower "
        "train.optimizer.learning_rate, or remove {state} and look for a damaged base model"
    ),
}


def train(
    params: TrainParams,
    method: ChosenMethod,
    curated: Path,
    base: str,
    output: Path,
    metrics: Path,
    timings: Path,
    state: Path,
) -> None:
    """Run the training to its end. SystemExit with a message when it was stopped or diverged."""
    # an absolute path, because a worker may run in another folder
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    inputs: list[Path | str] = [curated, base, state]

    # the compressor appears at the end; metrics and timings grow from the first row on
    with (
        hold(state),
        new_folder("train", output, [*inputs, metrics, timings]) as partial,
        growing_folder("train", metrics, PATTERNS, [*inputs, timings]),
        growing_folder("train", timings, PATTERNS, inputs, is_older=are_timings),
    ):
        # find out what is wrong before the cluster is asked for anything
        check_base_model(base, params.backbone.revision)
        run = prepare_run(params, method, curated.resolve(), base, state.resolve())

        # progress comes from the history; Ray Train's own actors repeat themselves
        connect(log_to_driver=False)
        check_resources(params.num_workers, params.cpus_per_worker, params.gpus_per_worker)

        # an absolute path too
        cache = params.feature_cache and str(Path(params.feature_cache).resolve())
        settings = {**params.model_dump(), "feature_cache": cache}
        trainer = TorchTrainer(
            train_worker,  # type: ignore[arg-type]  # what it returns is wanted
            train_loop_config={
                "params": settings,
                "method": method.model_dump(),
                "curated": curated.resolve(),
                "base": base,
                "run": run,
            },
            scaling_config=ScalingConfig(
                num_workers=params.num_workers,
                use_gpu=params.gpus_per_worker > 0,
                resources_per_worker={"CPU": params.cpus_per_worker, "GPU": params.gpus_per_worker},
            ),
            run_config=RunConfig(
                name=run.name,
                storage_path=str(run.parent),
                failure_config=FailureConfig(max_failures=params.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            ),
        )

        # the compressor leaves the run folder only when training has ended well
        files = MetricFiles(metrics, timings, params.run_settings)
        outcome, step = watch(trainer, run, files)
        if outcome is not Outcome.FINISHED:
            sys.exit(f"train: {ENDINGS[outcome].format(step=step, state=state)}")
        shutil.copytree(run / RESULT, partial, dirs_exist_ok=True)
    discard(run)


def prepare_run(
    params: TrainParams, method: ChosenMethod, curated: Path, base: str, state: Path
) -> Path:
    """Open the folder of this run, new or interrupted, and copy the samples for random access."""
    run = open_work(state, run_name(params, method, curated, base, state, ENTRIES))

    # traces of an earlier process: an old request to stop would end this one at once
    for stale in (HISTORY, NOTES, STOP):
        (run / stale).unlink(missing_ok=True)
    forget_damaged_checkpoints(run)

    if not (run / SAMPLES).exists():
        shards = sorted((curated / "samples" / schema.TRAIN).glob("*.parquet"))
        write_sample_file(shards, run / SAMPLES)
    return run


def watch(trainer: TorchTrainer, run: Path, files: MetricFiles) -> tuple[Outcome, int]:
    """Run the trainer, show its progress, and return its outcome and last step.

    SIGTERM and Ctrl-C become a request to stop after a checkpoint.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: (run / STOP).touch())

    # in the main thread Ray would end a run on Ctrl-C with success
    with ThreadPoolExecutor(1, "trainer") as pool:
        training = pool.submit(trainer.fit)
        shown = ""
        while not wait([training], SECONDS_BETWEEN_LOOKS).done:
            files.follow(read_history(run / HISTORY))
            shown = print_note(run / NOTES, shown)

    files.follow(read_history(run / HISTORY))
    files.end()
    result = training.result().return_value  # type: ignore[attr-defined]  # missing in Ray's stubs
    return Outcome(result["outcome"]), result["step"]


def print_note(notes: Path, shown: str) -> str:
    """Print the note of a worker unless it was `shown` before; return it."""
    note = notes.read_text(encoding="utf-8") if notes.exists() else ""
    if note not in ("", shown):
        print(f"train: {note}", flush=True)
    return note


def main(
    curated: Path, base: str, compressor: Path, metrics: Path, timings: Path, state: Path
) -> None:
    """Train adapters, summary queries and logit scale."""
    die_with_parent()
    params = load_params("train", TrainParams)
    method = choose_method(params.method)
    train(params, method, curated, base, compressor, metrics, timings, state)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("train")

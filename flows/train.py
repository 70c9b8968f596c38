"""Stage `train`: curated samples and a frozen base LVLM -> a compressor (two adapters, summary queries, logit scale).

    python -m flows.train CURATED BASE COMPRESSOR METRICS TIMINGS STATE

BASE is a folder or a hub id. COMPRESSOR appears whole or not at all. METRICS are DVCLive files, the same in every run;
TIMINGS are those that differ from run to run. STATE holds the checkpoints of an unfinished run and nothing else: the
same command goes on from the last one, whatever ended the run before. SIGTERM or Ctrl-C saves a checkpoint and ends
with an error. On several machines the folders are shared ones.
"""

import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from components import schema
from components.files.outputs import growing_folder, new_folder
from components.params import load_params
from components.training.loop import Outcome
from components.training.run_folder import (
    HISTORY,
    NOTES,
    RESULT,
    SAMPLES,
    STOP,
    discard,
    fingerprint,
    forget_damaged_checkpoints,
    only_run_in,
    open_run,
    read_history,
)
from components.training.samples import write_sample_file
from components.training.settings import PLACEMENT, TrainParams
from flows.cluster import check_resources, connect
from flows.lifetime import die_with_parent
from flows.metric_files import PATTERNS, MetricFiles, are_timings
from flows.train_worker import train_worker

KEPT_CHECKPOINTS = 2  # the last one may turn out to be damaged
CODE = (
    "components/training",
    "components/methods",
    "components/model",
    "components/losses",
    "flows/train.py",
    "flows/train_worker.py",
)
LIBRARIES = ("torch", "transformers", "peft")
SECONDS_BETWEEN_LOOKS = 1.0
ENDINGS = {
    Outcome.STOPPED: "stopped on request at step {step}; run the same command again to go on from there",
    Outcome.DIVERGED: (
        "after step {step} too many gradients were not finite; lower train.optimizer.learning_rate, or remove {state} "
        "and look for a damaged base model"
    ),
}


def train(
    params: TrainParams, curated: Path, base: str, output: Path, metrics: Path, timings: Path, state: Path
) -> None:
    """Run the training to its end. SystemExit with a message when it was stopped or did not converge."""
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    inputs: list[Path | str] = [curated, base, state]
    with (
        only_run_in(state),
        new_folder("train", output, [*inputs, metrics, timings]) as partial,
        growing_folder("train", metrics, PATTERNS, [*inputs, timings]),
        growing_folder("train", timings, PATTERNS, inputs, is_older=are_timings),
    ):
        run = prepare_run(params, curated.resolve(), base, state.resolve())
        connect(log_to_driver=False)  # progress comes from the history; Ray Train's own actors repeat themselves
        check_resources(params.num_workers, params.cpus_per_worker, params.gpus_per_worker)
        cache = params.feature_cache and str(Path(params.feature_cache).resolve())
        settings = {**params.model_dump(), "feature_cache": cache}
        trainer = TorchTrainer(
            train_worker,  # type: ignore[arg-type]  # what it returns is wanted
            train_loop_config={"params": settings, "curated": curated.resolve(), "base": base, "run": run},
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
        outcome, step = watch(trainer, run, MetricFiles(metrics, timings, params.what_to_expect))
        if outcome is not Outcome.FINISHED:
            sys.exit(f"train: {ENDINGS[outcome].format(step=step, state=state)}")
        shutil.copytree(run / RESULT, partial, dirs_exist_ok=True)
    discard(run)


def prepare_run(params: TrainParams, curated: Path, base: str, state: Path) -> Path:
    """The folder of this run, new or left by an interrupted one, with the samples in random-access form."""
    code = [Path(__file__).parent.parent / part for part in CODE]
    inputs = [curated, *code, *([Path(base)] if Path(base).is_dir() else [])]
    name = fingerprint([params.model_dump_json(exclude=PLACEMENT), base, *map(version, LIBRARIES)], inputs)
    run = open_run(state, name)
    for stale in (HISTORY, NOTES, STOP):
        (run / stale).unlink(missing_ok=True)
    forget_damaged_checkpoints(run)
    if not (run / SAMPLES).exists():
        write_sample_file(sorted((curated / "samples" / schema.TRAIN).glob("*.parquet")), run / SAMPLES)
    return run


def watch(trainer: TorchTrainer, run: Path, files: MetricFiles) -> tuple[Outcome, int]:
    """Run the trainer, show its progress, and turn SIGTERM and Ctrl-C into a request to stop after a checkpoint."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: (run / STOP).touch())
    with ThreadPoolExecutor(1, "trainer") as pool:  # in the main thread Ray would end a run on Ctrl-C with success
        training = pool.submit(trainer.fit)
        said = ""
        while not wait([training], SECONDS_BETWEEN_LOOKS).done:
            files.follow(read_history(run / HISTORY))
            said = say_anew(run / NOTES, said)
    files.follow(read_history(run / HISTORY))
    files.end()
    result = training.result().return_value  # type: ignore[attr-defined]  # missing in Ray's stubs
    return Outcome(result["outcome"]), result["step"]


def say_anew(notes: Path, said: str) -> str:
    """Print what a worker has noted unless it was `said` before; returns it."""
    note = notes.read_text(encoding="utf-8") if notes.exists() else ""
    if note not in ("", said):
        print(f"train: {note}", flush=True)
    return note


if __name__ == "__main__":
    die_with_parent()
    curated, base, *folders = sys.argv[1:]
    try:
        train(load_params("train", TrainParams), Path(curated), base, *map(Path, folders))
    except WorkerGroupError as error:
        print(error, file=sys.stderr)
        reasons = {str(failure).strip().splitlines()[-1] for failure in error.worker_failures.values()}
        sys.exit(f"train: workers failed: {'; '.join(sorted(reasons))}; run again to go on from the checkpoint")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"train: {error}")

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
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import ray.train
import torch
from pydantic import Field, model_validator
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer, get_device

from components import schema
from components.analysis.training_costs import Pass, Step, model_shape, step_flops
from components.losses.autoregressive import IGNORE_INDEX
from components.model.backbone import BackboneParams, load_backbone
from components.model.checkpoint import save_compressor
from components.model.double_forward import (
    CompressorParams,
    DoubleForward,
    build_double_forward,
    enable_gradient_checkpointing,
)
from components.params import load_params
from components.pictures import PictureLimits
from components.training.budgets import budget_of_step
from components.training.collate import TextParams, TrainBatch, TrainSample, collate
from components.training.diagnostics import Run
from components.training.distributed import gather_objects
from components.training.forward import LossParams
from components.training.loader import load_batches
from components.training.loop import LoopParams, Outcome, Surroundings, run_steps
from components.training.negatives import hard_negative
from components.training.optimizer import OptimizerParams, build_optimizer, trained_parameters
from components.training.run_folder import (
    discard,
    fingerprint,
    only_run_in,
    open_run,
    publish,
    read_history,
    write_history,
)
from components.training.sampler import GroupedSampler
from components.training.samples import SampleTable, write_sample_file
from components.training.state import START, TrainingState, is_whole, load_state, load_weights, save_state
from components.training.validation import ValidationParams, ValidationSet, load_validation_set, validate
from flows.cluster import check_resources, connect
from flows.lifetime import die_with_parent
from flows.metric_files import MetricFiles

# Files of a run folder.
SAMPLES, HISTORY, STOP, RESULT = "samples.arrow", "history.jsonl", "stop", "compressor"
CHECKPOINTS = "checkpoint_manager_snapshot.json"  # Ray's
CHECKPOINT = "step-{step:08d}"
HARD_NEGATIVES = 5  # random stream; 0 to 3 are the sampler's, 4 is that of the budgets
KEPT_CHECKPOINTS = 2  # the last one may turn out to be damaged
# Where and how fast a run computes, not what: a run may go on with other values.
PLACEMENT = {
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "threads_per_worker",
    "decoding_threads_per_worker",
    "max_failures",
}
CODE = ("components/training", "components/model", "components/losses", "flows/train.py")
LIBRARIES = ("torch", "transformers", "peft")
SECONDS_BETWEEN_LOOKS = 1.0
ENDINGS = {
    Outcome.STOPPED: "stopped on request at step {step}; run the same command again to go on from there",
    Outcome.DIVERGED: (
        "after step {step} too many gradients were not finite; lower train.optimizer.learning_rate, or remove {state} "
        "and look for a damaged base model"
    ),
}


class TrainParams(CompressorParams):
    """Everything that decides what a compressor is and how it is trained, and on how many workers."""

    seed: int = Field(ge=0)
    nested_budgets: tuple[Annotated[int, Field(ge=1)], ...]  # numbers of summary tokens, one per step; none: all
    num_workers: int = Field(ge=1)
    cpus_per_worker: int = Field(ge=1)  # reserved on the cluster
    gpus_per_worker: int = Field(ge=0, le=1)  # 0: CPUs, joined by gloo; 1: GPUs, joined by NCCL
    threads_per_worker: int = Field(ge=1)  # CPU threads that compute
    decoding_threads_per_worker: int = Field(ge=1)  # CPU threads that decode pictures for the next step
    max_failures: int = Field(ge=0)  # restarts from the last checkpoint when a worker is lost
    autoregressive_batch_size: int = Field(ge=1)  # conversations per step, over all workers
    contrastive_batch_size: int = Field(ge=2)  # picture-caption pairs per step, over all workers
    length_window_steps: int = Field(ge=1)  # steps whose samples are sorted by length, so that less is padding
    samples_per_chunk: int = Field(ge=1)  # of a worker, computed at once; more take gradient caching
    gradient_checkpointing: bool  # recompute layers in the backward pass: less memory, a third more time
    backbone: BackboneParams
    loop: LoopParams
    losses: LossParams
    optimizer: OptimizerParams
    texts: TextParams
    pictures: PictureLimits
    validation: ValidationParams

    @property
    def budgets(self) -> tuple[int, ...]:
        """How many summary tokens a step may train."""
        return self.nested_budgets or (self.num_summary_tokens,)

    @property
    def what_to_expect(self) -> Run:
        """What the diagnostics have to know."""
        return Run(
            self.loop.num_steps, self.contrastive_batch_size, self.losses.contrastive_weight, self.max_logit_scale
        )

    @property
    def compressor(self) -> CompressorParams:
        """What the compressor is, without how it is trained."""
        return CompressorParams(**{name: getattr(self, name) for name in CompressorParams.model_fields})

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if max(self.budgets) > self.num_summary_tokens:
            raise ValueError(f"nested_budgets {self.budgets} exceed num_summary_tokens {self.num_summary_tokens}")
        if self.attention == "bidirectional" and self.backbone.attention == "flash_attention_2":
            raise ValueError("attention: bidirectional needs backbone.attention sdpa or eager")
        return self

    @model_validator(mode="after")
    def _workers_share_alike(self) -> Self:
        for name in ("autoregressive_batch_size", "contrastive_batch_size"):
            if getattr(self, name) % self.num_workers:
                raise ValueError(f"{name} {getattr(self, name)} is not a multiple of num_workers {self.num_workers}")
        return self


def train(
    params: TrainParams, curated: Path, base: str, output: Path, metrics: Path, timings: Path, state: Path
) -> None:
    """Run the training to its end. SystemExit with a message when it was stopped or did not converge."""
    base = str(Path(base).resolve()) if Path(base).is_dir() else base
    with only_run_in(state):
        run = prepare_run(params, curated.resolve(), base, state.resolve())
        connect(log_to_driver=False)  # progress comes from the history; Ray Train's own actors repeat themselves
        check_resources(params.num_workers, params.cpus_per_worker, params.gpus_per_worker)
        trainer = TorchTrainer(
            train_worker,  # type: ignore[arg-type]  # what it returns is wanted
            train_loop_config={"params": params.model_dump(), "curated": curated.resolve(), "base": base, "run": run},
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
        publish(run / RESULT, output)
        discard(run)


def prepare_run(params: TrainParams, curated: Path, base: str, state: Path) -> Path:
    """The folder of this run, new or left by an interrupted one, with the samples in random-access form."""
    code = [Path(__file__).parent.parent / part for part in CODE]
    inputs = [curated, *code, *([Path(base)] if Path(base).is_dir() else [])]
    name = fingerprint([params.model_dump_json(exclude=PLACEMENT), base, *map(version, LIBRARIES)], inputs)
    run = open_run(state, name)
    for stale in (HISTORY, STOP):
        (run / stale).unlink(missing_ok=True)
    forget_damaged_checkpoints(run)
    if not (run / SAMPLES).exists():
        write_sample_file(sorted((curated / "samples" / schema.TRAIN).glob("*.parquet")), run / SAMPLES)
    return run


def forget_damaged_checkpoints(run: Path) -> None:
    """Leave a run folder with whole checkpoints only, and say from which one training goes on.

    Ray's own list is dropped with them: it is written in place, so that a kill may cut it off, and it goes by the order
    of reports. Ray then starts a run of the same name, and the workers find the checkpoint by themselves.
    """
    (run / CHECKPOINTS).unlink(missing_ok=True)
    for folder in sorted(run.glob("step-*")):
        if not is_whole(folder):
            print(f"train: checkpoint {folder.name} is damaged and left out", flush=True)
            discard(folder)
    if newest := last_checkpoint(run):
        print(f"train: going on from checkpoint {newest.name} of an interrupted run", flush=True)


def last_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint; a worker may have died while it wrote one."""
    return next((folder for folder in sorted(run.glob("step-*"), reverse=True) if is_whole(folder)), None)


def watch(trainer: TorchTrainer, run: Path, files: MetricFiles) -> tuple[Outcome, int]:
    """Run the trainer, show its progress, and turn SIGTERM and Ctrl-C into a request to stop after a checkpoint."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: (run / STOP).touch())
    with ThreadPoolExecutor(1, "trainer") as pool:  # in the main thread Ray would end a run on Ctrl-C with success
        training = pool.submit(trainer.fit)
        while not wait([training], SECONDS_BETWEEN_LOOKS).done:
            files.follow(read_history(run / HISTORY))
    files.follow(read_history(run / HISTORY))
    files.end()
    result = training.result().return_value  # type: ignore[attr-defined]  # missing in Ray's stubs
    return Outcome(result["outcome"]), result["step"]


def train_worker(config: dict[str, Any]) -> dict[str, str | int]:
    """What every worker runs; returns how and after which step it ended."""
    params, run = TrainParams.model_validate(config["params"]), config["run"]
    torch.set_num_threads(params.threads_per_worker)
    model = load_model(params, config["base"])
    trained = trained_parameters(model)
    state = TrainingState(trained, build_optimizer(trained, params.optimizer), START, {})
    is_first = ray.train.get_context().get_world_rank() == 0
    folder = gather_objects(last_checkpoint(run) if is_first else None)[0]
    if folder:
        load_state(state, folder)
    data = load_validation_set(config["curated"], params.validation, params.pictures)
    surroundings = Surroundings(
        validate=lambda: judge(model, data, params),
        checkpoint=lambda: report_checkpoint(state, is_first),
        publish=lambda history: write_history(history, run / HISTORY) if is_first else None,
        is_stop_requested=(run / STOP).exists,
        flops=lambda chunks: flops_of(model, chunks, params.gradient_checkpointing),
    )
    surroundings.publish(state.progress.history)
    steps = training_steps(params, model, SampleTable(run / SAMPLES), state.progress.next_step)
    outcome = run_steps(model, state, steps, params.loop, params.losses, params.optimizer, params.seed, surroundings)
    if outcome is Outcome.FINISHED and is_first:
        export(model, state, run)
    return {"outcome": outcome.value, "step": state.progress.next_step}


def judge(model: DoubleForward, data: ValidationSet, params: TrainParams) -> dict[str, float]:
    """The metrics of a validation, and whether the adapters have parted."""
    slice_params, max_caption_tokens = params.validation, params.texts.max_caption_tokens
    metrics = validate(model, data, slice_params.batch_size, slice_params.max_new_tokens, max_caption_tokens)
    are_two = len(params.adapters.names) > 1
    return metrics | ({"adapter_cosine": model.adapters.cosine()} if are_two else {})


def flops_of(model: DoubleForward, chunks: Sequence[TrainBatch], checkpointing: bool) -> int:
    """Operations of a worker's part of a step, by the formula for the double pass under adapters."""
    shape = model_shape(model.backbone.vlm.config, model.params.adapters, model.prompt_ids.numel())
    return step_flops(shape, [chunk_shape(model, chunk) for chunk in chunks], checkpointing)


def chunk_shape(model: DoubleForward, chunk: TrainBatch) -> Step:
    """The sizes of a chunk that decide what it costs."""
    kept = chunk.num_summary_tokens
    others = 1 + model.prompt_ids.numel() + kept
    return Step(
        pictures=Pass(len(chunk.pixel_values), others + model.backbone.num_image_tokens, kept),
        captions=Pass(len(chunk.caption_ids), others + chunk.caption_ids.shape[1], kept),
        conversations=Pass(*chunk.conversation_ids.shape, kept=chunk.predicting.shape[1]),  # type: ignore[misc]
        num_answer_tokens=int((chunk.targets != IGNORE_INDEX).sum()),
        num_pairs=len(chunk.caption_pictures),
    )


def load_model(params: TrainParams, base: str) -> DoubleForward:
    """The base model with untrained adapters and queries, on this worker's device."""
    options = params.backbone
    backbone = load_backbone(base, options.revision, options.torch_dtype, options.attention, options.pad_to_square)
    model = build_double_forward(backbone.to(get_device()), params.compressor, params.seed)
    if params.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return model


def training_steps(
    params: TrainParams, model: DoubleForward, table: SampleTable, step: int
) -> Iterator[list[TrainBatch]]:
    """This worker's chunks of each step from `step` on; the samples of a loss of weight 0 are not drawn."""
    sampler = GroupedSampler(
        table.has_conversation,
        table.has_caption,
        table.text_lengths,
        params.autoregressive_batch_size if params.losses.autoregressive_weight else 0,
        params.contrastive_batch_size if params.losses.contrastive_weight else 0,
        params.length_window_steps,
        params.seed,
    )
    context = ray.train.get_context()
    return load_batches(
        range(step, params.loop.num_steps),
        lambda step: (
            sampler.samples(step)
            .shard(context.get_world_rank(), context.get_world_size())
            .chunks(params.samples_per_chunk)
        ),
        lambda index: with_hard_negative(table.sample(index, params.pictures), index, params),
        lambda step, samples, groups: collate(
            samples, groups, model.backbone, budget_of_step(params.seed, step, params.budgets), params.texts
        ),
        params.decoding_threads_per_worker,
    )


def with_hard_negative(sample: TrainSample, index: int, params: TrainParams) -> TrainSample:
    """The sample with a wrong caption, always the same one, if such are wanted and it has one."""
    groups = params.texts.hard_negatives
    if not groups or sample.caption is None:
        return sample
    rng = np.random.default_rng([params.seed, HARD_NEGATIVES, index])
    return sample._replace(hard_negative=hard_negative(sample.caption, groups, rng))


def report_checkpoint(state: TrainingState, is_first: bool) -> None:
    """Have Ray keep the training state; all workers call this, the first one brings the files."""
    step = state.progress.next_step
    with tempfile.TemporaryDirectory() as folder:
        if is_first:
            save_state(state, Path(folder))
        checkpoint = Checkpoint.from_directory(folder) if is_first else None
        ray.train.report({"step": step}, checkpoint, checkpoint_dir_name=CHECKPOINT.format(step=step))


def export(model: DoubleForward, state: TrainingState, run: Path) -> None:
    """Write the compressor with the best weights into the run folder."""
    load_weights(state.parameters, state.best)
    rows = [row.metrics for row in state.progress.history if row.step == state.progress.best_step and not row.timings]
    figures = {name: value for metrics in rows for name, value in metrics.items() if name != "validation/best_score"}
    card = {"training steps": state.progress.next_step, "step of these weights": state.progress.best_step or 0}
    aside = run / "export"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_compressor(model, aside, card | {name: f"{value:.4f}" for name, value in figures.items()})
    shutil.rmtree(run / RESULT, ignore_errors=True)
    aside.rename(run / RESULT)


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

"""What every worker of the stage `train` runs: its model, its samples, the loop, and what the first worker writes."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint
from ray.train.torch import get_device

from components.costs.training_costs import Pass, Step, model_shape, step_flops
from components.losses.autoregressive import IGNORE_INDEX
from components.methods.catalogue import build_method
from components.methods.checkpoint import save_compressor
from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method, enable_gradient_checkpointing
from components.methods.method_settings import FWD2BOT, ChosenMethod
from components.model.families.llava import LlavaBackbone
from components.model.loading import load_backbone
from components.training.collate import TrainBatch
from components.training.distributed import gather_objects
from components.training.loop import Outcome, Surroundings, run_steps
from components.training.optimizer import build_optimizer, trained_parameters
from components.training.run_folder import (
    CHECKPOINT,
    HISTORY,
    NOTES,
    RESULT,
    SAMPLES,
    STOP,
    last_checkpoint,
    write_history,
)
from components.training.samples import SampleTable
from components.training.sharding import shard_decoder, whole_decoder
from components.training.state import (
    START,
    HistoryRow,
    TrainingState,
    load_state,
    load_weights,
    save_state,
)
from components.training.step_batches import training_steps
from components.training.training_settings import TrainParams
from components.training.validation_scores import ValidationSet, load_validation_set, validate


def train_worker(config: dict[str, Any]) -> dict[str, str | int]:
    """What every worker runs; returns how and after which step it ended."""
    params, run = TrainParams.model_validate(config["params"]), config["run"]
    torch.set_num_threads(params.threads_per_worker)
    method = ChosenMethod.model_validate(config["method"])
    model = load_model(params, method, config["base"])
    is_first = ray.train.get_context().get_world_rank() == 0
    trained = trained_parameters(model)
    if not trained:
        return leave_as_it_is(model, params, config["curated"], run, is_first)
    state = TrainingState(trained, build_optimizer(trained, params.optimizer), START, {})
    folder = gather_objects(last_checkpoint(run) if is_first else None)[0]
    if folder:
        load_state(state, folder)
    data = load_validation_set(config["curated"], params.validation, params.pictures)

    def say(text: str) -> None:
        if is_first:
            (run / NOTES).write_text(text, encoding="utf-8")

    surroundings = Surroundings(
        validate=lambda: judge(model, data, params),
        checkpoint=lambda: report_checkpoint(state, is_first),
        publish=lambda history: write_history(history, run / HISTORY) if is_first else None,
        is_stop_requested=(run / STOP).exists,
        is_loss_announced=preemption_watch(),
        flops=lambda chunks: flops_of(model, chunks, params.gradient_checkpointing),
    )
    surroundings.publish(state.progress.history)
    steps = training_steps(params, model, SampleTable(run / SAMPLES), state.progress.next_step, say)
    outcome = run_steps(
        model,
        state,
        steps,
        params.loop,
        params.alignment,
        params.method.num_module_steps,
        params.taught,
        params.optimizer,
        params.seed,
        surroundings,
    )
    if outcome is Outcome.FINISHED and is_first:
        export(model, state, run)
    return {"outcome": outcome.value, "step": state.progress.next_step}


def leave_as_it_is(
    model: Method, params: TrainParams, curated: Path, run: Path, is_first: bool
) -> dict[str, str | int]:
    """A method that learns nothing: it is validated and written."""
    data = load_validation_set(curated, params.validation, params.pictures)
    metrics = {f"validation/{name}": value for name, value in judge(model, data, params).items()}
    row = HistoryRow(step=0, metrics=metrics, timings={})
    if is_first:
        write_history([row], run / HISTORY)
        save_whole(model, run, {name: f"{value:.4f}" for name, value in metrics.items()})
    return {"outcome": Outcome.FINISHED.value, "step": 0}


def judge(model: Method, data: ValidationSet, params: TrainParams) -> dict[str, float]:
    """The metrics of a validation, and whether the adapters have parted."""
    slice_params, max_caption_tokens = params.validation, params.texts.max_caption_tokens
    with whole_decoder(model):
        metrics = validate(
            model, data, slice_params.batch_size, slice_params.max_new_tokens, max_caption_tokens
        )
    are_two = len(model.adapters.names) > 1
    return metrics | ({"adapter_cosine": model.adapters.cosine()} if are_two else {})


def flops_of(model: Method, chunks: Sequence[TrainBatch], checkpointing: bool) -> int:
    """Operations of a worker's part of a step, by the formula for the double pass of a LLaVA-1.5 under adapters.

    0 for other families and methods, which have no formula here.
    """
    if not isinstance(model.backbone, LlavaBackbone) or not isinstance(model, DoubleForward):
        return 0
    if model.chosen.name != FWD2BOT:
        return 0
    shape = model_shape(model.backbone.vlm.config, model.params.adapters)
    image_tokens = model.backbone.num_image_tokens
    return step_flops(
        shape, [chunk_shape(model, chunk, image_tokens) for chunk in chunks], checkpointing
    )


def chunk_shape(model: DoubleForward, chunk: TrainBatch, num_image_tokens: int) -> Step:
    """The sizes of a chunk that decide what it costs."""
    kept = model.num_summary_tokens
    others = 1 + model.prompt_ids.numel() + kept
    return Step(
        pictures=Pass(chunk.num_pictures, others + num_image_tokens, kept),
        captions=Pass(len(chunk.caption_ids), others + chunk.caption_ids.shape[1], kept),
        conversations=Pass(*chunk.conversation_ids.shape, kept=chunk.predicting.shape[1]),  # type: ignore[misc]
        num_encoded=len(chunk.pictures),
        num_answer_tokens=int((chunk.targets != IGNORE_INDEX).sum()),
        num_pairs=len(chunk.caption_pictures),
        num_budgets=len(chunk.budgets),
    )


def load_model(params: TrainParams, method: ChosenMethod, base: str) -> Method:
    """The base model with untrained adapters and queries, on this worker's device."""
    options = params.backbone
    backbone = load_backbone(
        base, options.revision, options.torch_dtype, options.attention, options.pad_to_square
    )
    model = build_method(backbone.to(get_device()), params.compressor, method, params.seed)
    if params.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if params.parallelism == "fsdp":
        shard_decoder(model)
    return model


def report_checkpoint(state: TrainingState, is_first: bool) -> None:
    """Have Ray keep the training state; all workers call this, the first one brings the files."""
    step = state.progress.next_step
    with tempfile.TemporaryDirectory() as folder:
        if is_first:
            save_state(state, Path(folder))
        checkpoint = Checkpoint.from_directory(folder) if is_first else None
        ray.train.report(
            {"step": step}, checkpoint, checkpoint_dir_name=CHECKPOINT.format(step=step)
        )


def preemption_watch() -> Callable[[], bool]:
    """Says, once for each set of nodes, that they are being taken away; all workers call it equally often."""
    seen: set[tuple[str, ...]] = set()

    def is_announced() -> bool:
        notice = ray.train.get_preemption_info()
        nodes = tuple(notice.preempted_node_ids) if notice else ()
        is_new = bool(nodes) and nodes not in seen
        seen.add(nodes)
        return is_new

    return is_announced


def export(model: Method, state: TrainingState, run: Path) -> None:
    """Write the compressor with the best weights into the run folder."""
    load_weights(state.parameters, state.best)
    rows = [
        row.metrics
        for row in state.progress.history
        if row.step == state.progress.best_step and not row.timings
    ]
    figures = {
        name: value
        for metrics in rows
        for name, value in metrics.items()
        if name != "validation/best_score"
    }
    card = {
        "training steps": state.progress.next_step,
        "step of these weights": state.progress.best_step or 0,
    }
    save_whole(model, run, card | {name: f"{value:.4f}" for name, value in figures.items()})


def save_whole(model: Method, run: Path, card: Mapping[str, str | float]) -> None:
    """Write the compressor into the run folder, whole or not at all."""
    aside = run / "export"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_compressor(model, aside, card)
    shutil.rmtree(run / RESULT, ignore_errors=True)
    aside.rename(run / RESULT)

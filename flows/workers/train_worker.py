"""A worker of the stage `train`: its model, its samples, the loop, and the files it leaves."""

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
from components.training.loop import Callbacks, Outcome, run_steps
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
    """Train on one worker; return the outcome of the run and its last step."""
    params = TrainParams.model_validate(config["params"])
    run, curated = config["run"], config["curated"]
    is_first = ray.train.get_context().get_world_rank() == 0
    torch.set_num_threads(params.threads_per_worker)

    # without anything to learn, the method as it comes is the result
    method = ChosenMethod.model_validate(config["method"])
    model = load_model(params, method, config["base"])
    trained = trained_parameters(model)
    if not trained:
        return export_untrained(model, params, curated, run, is_first)

    # all workers go on from the same checkpoint: the one that the first of them finds
    state = TrainingState(trained, build_optimizer(trained, params.optimizer), START, {})
    folder = gather_objects(last_checkpoint(run) if is_first else None)[0]
    if folder:
        load_state(state, folder)
    data = load_validation_set(curated, params.validation, params.pictures)

    # what the loop leaves to Ray and to files, of which the first worker writes most
    def publish(history: Sequence[HistoryRow]) -> None:
        if is_first:
            write_history(history, run / HISTORY)

    def note(text: str) -> None:
        if is_first:
            (run / NOTES).write_text(text, encoding="utf-8")

    callbacks = Callbacks(
        validate=lambda: scores_of(model, data, params),
        checkpoint=lambda: report_checkpoint(state, is_first),
        publish=publish,
        is_stop_requested=(run / STOP).exists,
        is_loss_announced=preemption_watch(),
        flops=lambda chunks: flops_of(model, chunks, params.gradient_checkpointing),
    )
    publish(state.progress.history)

    table = SampleTable(run / SAMPLES)
    outcome = run_steps(
        model,
        state,
        training_steps(params, model, table, state.progress.next_step, note),
        params.loop,
        params.alignment,
        params.method.num_module_steps,
        params.taught,
        params.optimizer,
        params.seed,
        callbacks,
    )

    if outcome is Outcome.FINISHED and is_first:
        export_best(model, state, run)
    return {"outcome": outcome.value, "step": state.progress.next_step}


def load_model(params: TrainParams, method: ChosenMethod, base: str) -> Method:
    """Load the base model with untrained adapters and queries, on this worker's device."""
    options = params.backbone
    backbone = load_backbone(
        base, options.revision, options.torch_dtype, options.attention, options.pad_to_square
    )
    model = build_method(backbone.to(get_device()), params.compressor, method, params.seed)

    # both change the decoder layers, so the adapters must be in them already
    if params.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    if params.parallelism == "fsdp":
        shard_decoder(model)
    return model


def scores_of(model: Method, data: ValidationSet, params: TrainParams) -> dict[str, float]:
    """Validate, and measure whether the adapters have parted."""
    # workers read different batches, so no layer may wait to be gathered by all
    validation = params.validation
    with whole_decoder(model):
        metrics = validate(
            model,
            data,
            validation.batch_size,
            validation.max_new_tokens,
            params.texts.max_caption_tokens,
        )
    if len(model.adapters.names) > 1:
        metrics["adapter_cosine"] = model.adapters.cosine()
    return metrics


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
    """Build a function that tells, once for each set of nodes, that they are being taken away.

    All workers call it equally often.
    """
    seen: set[tuple[str, ...]] = set()

    def is_announced() -> bool:
        notice = ray.train.get_preemption_info()
        nodes = tuple(notice.preempted_node_ids) if notice else ()
        is_new = bool(nodes) and nodes not in seen
        seen.add(nodes)
        return is_new

    return is_announced


def flops_of(model: Method, chunks: Sequence[TrainBatch], checkpointing: bool) -> int:
    """Count the operations of a worker's part of a step, by the formula for the double pass.

    The formula is for a LLaVA-1.5 under adapters; 0 for other families and methods.
    """
    if not isinstance(model.backbone, LlavaBackbone) or not isinstance(model, DoubleForward):
        return 0
    if model.chosen.name != FWD2BOT:
        return 0

    shape = model_shape(model.backbone.vlm.config, model.params.adapters)
    image_tokens = model.backbone.num_image_tokens
    sizes = [chunk_shape(model, chunk, image_tokens) for chunk in chunks]
    return step_flops(shape, sizes, checkpointing)


def chunk_shape(model: DoubleForward, chunk: TrainBatch, num_image_tokens: int) -> Step:
    """Collect the sizes of a chunk that decide what it costs."""
    # BOS, prompt and queries are read with every picture and caption
    kept = model.num_summary_tokens
    others = 1 + model.prompt_ids.numel() + kept
    texts = []
    for part in (chunk.captions, chunk.phrases, chunk.hard_negatives):
        if len(part):
            texts.append(Pass(len(part), others + part.ids.shape[1], kept))
    return Step(
        pictures=Pass(chunk.num_pictures, others + num_image_tokens, kept),
        texts=tuple(texts),
        conversations=Pass(
            len(chunk.conversation_ids),
            chunk.conversation_ids.shape[1],
            chunk.predicting.shape[1],
        ),
        num_encoded=len(chunk.pictures),
        num_answer_tokens=int((chunk.targets != IGNORE_INDEX).sum()),
        num_pairs=len(chunk.caption_pictures),
        num_budgets=len(chunk.budgets),
    )


def export_untrained(
    model: Method, params: TrainParams, curated: Path, run: Path, is_first: bool
) -> dict[str, str | int]:
    """Validate and write a method that learns nothing."""
    data = load_validation_set(curated, params.validation, params.pictures)
    scores = scores_of(model, data, params)
    metrics = {f"validation/{name}": value for name, value in scores.items()}

    if is_first:
        write_history([HistoryRow(step=0, metrics=metrics, timings={})], run / HISTORY)
        export(model, run, {}, metrics)
    return {"outcome": Outcome.FINISHED.value, "step": 0}


def export_best(model: Method, state: TrainingState, run: Path) -> None:
    """Write the compressor with the best weights into the run folder."""
    load_weights(state.parameters, state.best)

    # the card shows the scores of these weights: the row of the validation that chose them
    progress = state.progress
    figures: dict[str, float] = {}
    for row in progress.history:
        is_validation = not row.timings
        if is_validation and row.step == progress.best_step:
            figures |= row.metrics
    figures.pop("validation/best_score", None)

    steps = {
        "training steps": progress.next_step,
        "step of these weights": progress.best_step or 0,
    }
    export(model, run, steps, figures)


def export(
    model: Method, run: Path, steps: Mapping[str, int], figures: Mapping[str, float]
) -> None:
    """Write the compressor and its model card into the run folder, whole or not at all."""
    # model card: steps, then scores
    metrics: dict[str, float | str] = dict(steps)
    for name, value in figures.items():
        metrics[name] = f"{value:.4f}"

    # beside the result, which it then replaces
    aside = run / "export"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    save_compressor(model, aside, metrics)
    shutil.rmtree(run / RESULT, ignore_errors=True)
    aside.rename(run / RESULT)

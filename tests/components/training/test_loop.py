"""The loop in a plain process: stopping and going on changes nothing, with dropout and all."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from components.methods.fwd2bot import DoubleForward
from components.training.alignment import AlignmentParams
from components.training.budgets import all_tokens
from components.training.collate import TrainBatch, collate
from components.training.distributed import rank, world_size
from components.training.forward import LossParams
from components.training.loop import Callbacks, LoopParams, Outcome, run_steps
from components.training.sampler import GroupedSampler
from components.training.state import HistoryRow, TrainingState, load_state, save_state
from tests.components.model.tiny import compressor, prepared
from tests.components.training.test_state import OPTIMIZER, build_state
from tests.components.training.world import LENGTHS, build_model, in_processes, samples

LOOP = LoopParams(
    num_steps=6,
    log_every_steps=2,
    validate_every_steps=3,
    checkpoint_every_steps=2,
    max_skipped_steps=1,
)
LOSSES = LossParams(autoregressive_weight=1.0, contrastive_weight=1.0, max_similarity_weight=0.0)
NO_ALIGNMENT = AlignmentParams(num_steps=0, masked_share=0.5)
SCORES = {3: 0.5, 6: 0.4}


def steps_from(
    model: DoubleForward, step: int, rank: int = 0, world_size: int = 1
) -> Iterator[list[TrainBatch]]:
    table = samples(20)
    conversation = [bool(sample.conversation) for sample in table.values()]
    caption = [sample.caption is not None for sample in table.values()]
    sampler = GroupedSampler(
        conversation, caption, [1] * len(caption), 4, 4, window_steps=1, seed=0
    )
    for number in range(step, LOOP.num_steps):
        groups = sampler.samples(number).shard(rank, world_size)
        mine = {index: table[index] for group in groups for index in group}
        yield [collate(mine, groups, model.backbone, all_tokens(model.num_summary_tokens), LENGTHS)]


def run(
    model: DoubleForward,
    state: TrainingState,
    checkpoint: Callable[[], None] = lambda: None,
    stop_after: int | None = None,
    damage: Callable[[TrainBatch], TrainBatch] = lambda batch: batch,
    alignment: AlignmentParams = NO_ALIGNMENT,
    loss_announced_after: int | None = None,
    loop: LoopParams = LOOP,
) -> Outcome:
    shown: list[Sequence[HistoryRow]] = []
    callbacks = Callbacks(
        validate=lambda: {"score": SCORES[state.progress.next_step]},
        checkpoint=checkpoint,
        publish=shown.append,
        is_stop_requested=lambda: state.progress.next_step == stop_after,
        is_loss_announced=lambda: state.progress.next_step == loss_announced_after,
        flops=lambda chunks: len(chunks),
    )
    given = steps_from(model, state.progress.next_step, rank(), world_size())
    steps = ([damage(chunk) for chunk in chunks] for chunks in given)
    outcome = run_steps(model, state, steps, loop, alignment, 0, LOSSES, OPTIMIZER, 0, callbacks)
    if shown:
        assert tuple(shown[-1]) == state.progress.history
    return outcome


def measured(state: TrainingState) -> list[tuple[int, dict[str, float]]]:
    return [(row.step, row.metrics) for row in state.progress.history]


def test_a_stopped_run_ends_like_an_undisturbed_one(llava_folder: Path, tmp_path: Path) -> None:
    model = compressor(llava_folder)  # with dropout
    whole = build_state(model)
    assert run(model, whole) is Outcome.FINISHED

    model = compressor(llava_folder)
    first = build_state(model)
    assert run(model, first, lambda: save_state(first, tmp_path), stop_after=3) is Outcome.STOPPED
    model = compressor(llava_folder)
    second = build_state(model)
    load_state(second, tmp_path)
    assert second.progress.next_step == 3
    assert run(model, second) is Outcome.FINISHED

    assert measured(second) == measured(whole)
    assert all(
        torch.equal(weight, whole.parameters[name]) for name, weight in second.parameters.items()
    )
    assert all(torch.equal(weight, whole.best[name]) for name, weight in second.best.items())


def half_a_run(number: int, folder: Path, llava_folder: Path) -> None:
    model = build_model(llava_folder).double()
    state = build_state(model)
    run(
        model,
        state,
        (lambda: save_state(state, folder)) if number == 0 else (lambda: None),
        stop_after=3,
    )


def test_another_number_of_workers_goes_on_with_the_same_samples(
    llava_folder: Path, tmp_path: Path
) -> None:
    """The same up to the order of sums; without dropout, whose random numbers are a worker's.

    In 8-byte floats: a rounding of the first step in 4 bytes is percents of the last gradients.
    """
    in_processes(2, half_a_run, tmp_path, llava_folder)
    model = build_model(llava_folder).double()
    state = build_state(model)
    load_state(state, tmp_path)
    assert state.progress.next_step == 3
    assert run(model, state) is Outcome.FINISHED

    model = build_model(llava_folder).double()
    whole = build_state(model)
    assert run(model, whole) is Outcome.FINISHED
    mine, theirs = (
        torch.cat([weight.flatten() for weight in it.parameters.values()]) for it in (state, whole)
    )
    assert (mine - theirs).norm() / theirs.norm() < 1e-9
    for found, expected in zip(state.progress.history, whole.progress.history, strict=True):
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)


def test_history_has_means_of_the_steps_and_every_validation(model: DoubleForward) -> None:
    state = build_state(model)
    run(model, state)
    assert [row.step for row in state.progress.history] == [2, 3, 4, 6, 6]
    last_losses, last_validation = state.progress.history[-2:]
    assert {
        "train/autoregressive_loss",
        "train/contrastive_loss",
        "train/logit_scale",
    } < last_losses.metrics.keys()
    assert {
        "seconds_per_step",
        "samples_per_second",
        "data_wait_share",
    } < last_losses.timings.keys()
    seconds = last_losses.timings["seconds_per_step"]
    assert last_losses.timings["flops_per_second_and_worker"] == pytest.approx(1 / seconds)
    assert last_validation.metrics == {"validation/score": 0.4, "validation/best_score": 0.5}


def test_alignment_comes_first_with_a_loss_of_its_own(model: DoubleForward) -> None:
    state = build_state(model)
    run(model, state, alignment=AlignmentParams(num_steps=3, masked_share=0.5))
    shown = {
        row.step: row for row in state.progress.history if "validation/score" not in row.metrics
    }
    assert "train/alignment_loss" in shown[2].metrics
    assert "train/autoregressive_loss" not in shown[2].metrics
    assert shown[2].timings["flops_per_second_and_worker"] == 0
    row = shown[4].metrics  # the mean of step 4 alone
    assert row["train/loss"] == pytest.approx(
        row["train/autoregressive_loss"] + row["train/contrastive_loss"]
    )
    assert "train/alignment_loss" not in shown[4].metrics | shown[6].metrics


def test_a_notice_of_a_loss_brings_a_checkpoint_forward(model: DoubleForward) -> None:
    def steps_saved(loss_announced_after: int | None) -> list[int]:
        state, saved = build_state(model), list[int]()
        loop = LOOP.model_copy(update={"checkpoint_every_steps": 4})
        checkpoint = lambda: saved.append(state.progress.next_step)  # noqa: E731
        assert (
            run(model, state, checkpoint, loss_announced_after=loss_announced_after, loop=loop)
            is Outcome.FINISHED
        )
        return saved

    assert steps_saved(None) == [4, 6]
    assert steps_saved(2) == [2, 4, 6]


def test_the_best_weights_are_kept(model: DoubleForward) -> None:
    state = build_state(model)
    weights: dict[int, torch.Tensor] = {}
    original = state.keep_as_best

    def keep(score: float) -> None:
        original(score)
        weights[state.progress.next_step] = model.queries.weight.detach().clone()

    state.keep_as_best = keep  # type: ignore[method-assign]
    run(model, state)
    assert state.progress.best_step == 3
    assert torch.equal(state.best["queries.weight"], weights[3])
    assert not torch.equal(state.best["queries.weight"], model.queries.weight)


def test_checkpoints_are_made_in_time_and_at_the_end(model: DoubleForward) -> None:
    state = build_state(model)
    steps: list[int] = []
    run(model, state, lambda: steps.append(state.progress.next_step))
    assert steps == [2, 4, 6]


def test_a_finished_run_has_nothing_left_to_do(model: DoubleForward) -> None:
    state = build_state(model)
    run(model, state)
    done = state.progress
    assert run(model, state) is Outcome.FINISHED
    assert state.progress == done


def test_steps_without_a_finite_gradient_end_the_run_when_they_are_too_many(
    model: DoubleForward,
) -> None:
    def damage(batch: TrainBatch) -> TrainBatch:
        return batch._replace(pictures=prepared(batch.pictures.tensors["pixel_values"] * torch.nan))

    state = build_state(model)
    assert run(model, state, damage=damage) is Outcome.DIVERGED
    assert (state.progress.next_step, state.progress.num_skipped_steps) == (2, 2)


def test_a_skipped_step_is_counted_and_left_out_of_the_means(model: DoubleForward) -> None:
    seen: list[int] = []

    def damage(batch: TrainBatch) -> TrainBatch:
        seen.append(1)
        return (
            batch._replace(pictures=prepared(batch.pictures.tensors["pixel_values"] * torch.nan))
            if len(seen) == 1
            else batch
        )

    state = build_state(model)
    assert run(model, state, damage=damage) is Outcome.FINISHED
    assert all(
        row.metrics["train/skipped_steps"] == 1 for row in state.progress.history if row.timings
    )

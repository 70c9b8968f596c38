"""Stage `pretrain`: train the tiny base LVLM of the demo world; frozen, its result is in git.

    make base    (or: python -m flows.pretrain data/curated models/tiny-llava flows/pretrain.yaml)

Training scenes are drawn without end from a random stream of their own; the validation questions
are the curated ones. A run that was interrupted goes on from its last checkpoint; those of other
runs are listed and stay.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from components import schema
from components.drawn_world.lessons import LessonsParams, lesson_row, tokenizer_texts, tower_row
from components.drawn_world.pretraining import (
    Conversation,
    Encoder,
    PretrainBatch,
    QuestionAnswer,
    answered_right,
    packed_hidden,
)
from components.drawn_world.tiny_llava import TinyLlavaParams, build_tiny_llava
from components.drawn_world.tower_training import TowerParams, train_class_token, train_tower
from components.drawn_world.world import CELL_ATTRIBUTES
from components.files.code import code_sha256
from components.files.contents import contents_sha256
from components.files.outputs import new_folder
from components.files.unfinished import discard, hold, open_work
from components.losses.autoregressive import autoregressive_loss
from components.model.pretrained import save_model
from components.params import load_params
from components.training.optimizer import (
    Optimizer,
    OptimizerParams,
    build_optimizer,
    clip_gradients,
    learning_rate_at,
    trained_parameters,
)
from components.training.run_folder import CHECKPOINT, HASHES, LIBRARIES
from flows.running.cluster import connect
from flows.running.lifetime import die_with_parent

LOG_EVERY = 20  # steps
VALIDATION_BATCH = 32  # pictures
STATE = Path(".cache/pretrain")
# the part of the curated data that is read
VALIDATION = ("images/validation", "questions/validation.parquet")
LATER_TURNS = "later_turns"  # column of the curve: questions in one conversation, but for the first
# picture, questions with answers, their kinds
Row = tuple[np.ndarray, list[QuestionAnswer], list[str]]


class PretrainParams(LessonsParams):
    """Settings of the base model and its training."""

    seed: int
    num_threads: int
    num_tokenizer_scenes: int
    model: TinyLlavaParams
    tower: TowerParams
    num_steps: int
    batch_size: int
    optimizer: OptimizerParams
    validation_pictures: int
    validate_every: int


def pretrain(params: PretrainParams, curated: Path, output: Path) -> None:
    """Train and write the model folder whole or not at all. Raises OutputError before it trains."""
    with hold(STATE), new_folder("pretrain", output, [curated, STATE]) as partial:
        # A run of the same name is an interrupted one with the same result.
        run = open_work(STATE.resolve(), pretraining_name(params, curated, STATE))
        checkpoint = train_in(run, params, curated)
        with checkpoint.as_directory() as name:
            folder = Path(name)
            shutil.copytree(folder / "model", partial, dirs_exist_ok=True)
            curve = json.loads((folder / "curve.json").read_text())
            write_curve(curve, partial / "pretraining.tsv")
    # Only once the model folder stands in its place.
    discard(run)


def pretraining_name(params: PretrainParams, curated: Path, state: Path) -> str:
    """Return a name from a hash of all that decides the result; times and places do not count."""
    inputs = contents_sha256([curated / name for name in VALIDATION], state / HASHES)
    parts = [
        params.model_dump(mode="json"),
        code_sha256(["flows.pretrain"]),
        inputs,
        *map(version, LIBRARIES),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def train_in(run: Path, params: PretrainParams, curated: Path) -> Checkpoint:
    """Train a run, new or interrupted, by Ray Train; return its last checkpoint."""
    connect()
    # One worker: the demo's model is small, and its numbers should not depend on the machine.
    trainer = TorchTrainer(
        pretrain_worker,
        train_loop_config={"params": params.model_dump(), "curated": str(curated.resolve())},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=run.name,
            storage_path=str(run.parent),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    assert checkpoint is not None
    return checkpoint


@dataclass
class Run:
    """Everything that changes in the course of pretraining."""

    model: LlavaForConditionalGeneration
    processor: LlavaProcessor
    optimizer: Optimizer
    step: int  # steps done
    curve: list[dict[str, float]]  # validation so far


def pretrain_worker(config: dict[str, Any]) -> None:
    """Run the loop of the only worker."""
    params = PretrainParams.model_validate(config["params"])
    torch.set_num_threads(params.num_threads)

    # Untrained, or from the last checkpoint.
    run = start(params)
    encoder = Encoder(run.processor, run.model.config.image_seq_length)
    restore(run)

    # The head start of the vision tower, which is frozen afterwards.
    if run.step == 0:
        num_classes = [len(names) + 1 for names in CELL_ATTRIBUTES]
        batches = tower_batches(params, encoder)
        loss = train_tower(run.model, batches, num_classes, params.tower)
        print(f"pretrain: the vision tower names patches, loss {loss:.3f}", flush=True)
        batches = tower_batches(params, encoder)
        loss = train_class_token(run.model, batches, num_classes, params.tower)
        print(f"pretrain: its class token names what a picture shows, loss {loss:.3f}", flush=True)

    validation = validation_rows(params, Path(config["curated"]))
    started, first_step = time.monotonic(), run.step
    while run.step < params.num_steps:
        loss = train_step(params, run, draw_batch(params, encoder, run.step))

        # The rate of this process: steps before an interruption do not count.
        if run.step % LOG_EVERY == 0:
            seconds = (time.monotonic() - started) / (run.step - first_step)
            minutes_left = seconds * (params.num_steps - run.step) / 60
            print(
                f"pretrain: step {run.step}/{params.num_steps} loss {loss:.3f} "
                f"{params.batch_size / seconds:.0f} pictures/s {minutes_left:.0f} min left",
                flush=True,
            )

        # A checkpoint holds the curve up to its own step.
        if run.step % params.validate_every == 0 or run.step == params.num_steps:
            scores = validate(run.model, encoder, validation)
            run.curve.append({"pictures": run.step * params.batch_size} | scores)
            print(f"pretrain: validation {run.curve[-1]}", flush=True)
            save(run)


def start(params: PretrainParams) -> Run:
    """Build an untrained model; its vision tower is frozen but for its head start, as in LLaVA."""
    texts = tokenizer_texts(params.seed, params.world, params.num_tokenizer_scenes)
    model, processor = build_tiny_llava(params.model, texts, params.seed)
    model.model.vision_tower.requires_grad_(False)

    optimizer = build_optimizer(trained_parameters(model), params.optimizer)
    return Run(model, processor, optimizer, step=0, curve=[])


def train_step(params: PretrainParams, run: Run, batch: PretrainBatch) -> float:
    """Make one step of the optimizer; return the loss."""
    hidden = packed_hidden(run.model, batch)
    loss = autoregressive_loss(hidden, run.model.lm_head, batch.packed.labels)
    run.model.zero_grad()
    loss.backward()
    trained = trained_parameters(run.model).values()
    clip_gradients(trained, params.optimizer.max_gradient_norm)

    # The rate is a function of the step, so that a run which goes on needs no other state.
    rate = learning_rate_at(run.step, params.num_steps, params.optimizer)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.optimizer.step()
    run.step += 1
    return float(loss.detach())


def draw_batch(params: PretrainParams, encoder: Encoder, step: int) -> PretrainBatch:
    """Draw a training batch, each row as a function of the seed and its index in the stream."""
    indices = range(step * params.batch_size, (step + 1) * params.batch_size)
    rows = [lesson_row(params.seed, params, index) for index in indices]
    pictures, conversations, shown = zip(*rows, strict=True)
    return encoder.batch(pictures, conversations, shown)


def tower_batches(
    params: PretrainParams, encoder: Encoder
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pictures of the lessons' world and labels of their cells."""
    size = params.tower.batch_size
    for step in range(params.tower.num_steps):
        indices = range(step * size, (step + 1) * size)
        rows = [tower_row(params.seed, params.world, index) for index in indices]
        pictures, labels = zip(*rows, strict=True)
        if step % LOG_EVERY == 0:
            print(f"pretrain: vision tower: step {step}/{params.tower.num_steps}", flush=True)
        yield encoder.pixel_values(pictures), torch.from_numpy(np.stack(labels))


def validation_rows(params: PretrainParams, curated: Path) -> list[Row]:
    """Read the first pictures of the validation split with all questions about them."""
    pictures_of, questions_of = (curated / name for name in VALIDATION)
    images = pq.read_table(pictures_of).to_pylist()[: params.validation_pictures]

    # Questions with their first answer, and the kind that each counts for.
    pairs, kinds = defaultdict(list), defaultdict(list)
    for row in pq.read_table(questions_of).to_pylist():
        image_id, is_short = row[schema.IMAGE_ID], row[schema.BENCHMARK] == "short_answer"
        pairs[image_id].append((row[schema.QUESTION], row[schema.ANSWERS][0]))
        kinds[image_id].append(row[schema.KIND] if is_short else row[schema.BENCHMARK])

    rows = []
    for row in images:
        name = row[schema.IMAGE_ID]
        picture = np.asarray(Image.open(BytesIO(row[schema.IMAGE])))
        rows.append((picture, pairs[name], kinds[name]))
    return rows


def validate(
    model: LlavaForConditionalGeneration, encoder: Encoder, rows: list[Row]
) -> dict[str, float]:
    """Return the share of validation questions answered right, by kind.

    Each is asked by itself, then all of a picture in one conversation.
    """
    rights = defaultdict(list)
    for first in range(0, len(rows), VALIDATION_BATCH):
        pictures, pairs, kinds = zip(*rows[first : first + VALIDATION_BATCH], strict=True)
        apart: list[list[Conversation]] = []
        for row in pairs:
            apart.append([(pair,) for pair in row])
        together: list[list[Conversation]] = [[tuple(row)] for row in pairs]

        # One entry per question, below its kind.
        for row_kinds, row_rights in zip(
            kinds, ask_batch(model, encoder, pictures, apart), strict=True
        ):
            for kind, right in zip(row_kinds, row_rights, strict=True):
                rights[kind].append(right)
        for row_rights in ask_batch(model, encoder, pictures, together):
            rights[LATER_TURNS] += row_rights[1:]
    return {kind: round(float(np.mean(rights[kind])), 4) for kind in sorted(rights)}


def ask_batch(
    model: LlavaForConditionalGeneration,
    encoder: Encoder,
    pictures: Sequence[np.ndarray],
    conversations: Sequence[Sequence[Conversation]],
) -> list[list[bool]]:
    """Return which answers of each picture are right, in the order of the conversations."""
    batch = encoder.batch(pictures, conversations, [True] * len(pictures))
    return answered_right(model, batch)


def restore(run: Run) -> None:
    """Go on from the last checkpoint of the run, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        try:
            state = torch.load(Path(folder) / "state.pt", weights_only=True)
            run.curve = json.loads((Path(folder) / "curve.json").read_text())
        except (OSError, ValueError, EOFError, RuntimeError, UnpicklingError) as error:
            raise ValueError(
                f"{folder}: this checkpoint is damaged ({error}); remove it to go on from one "
                "before"
            ) from error

    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step = state["step"]
    print(f"pretrain: goes on at step {run.step}", flush=True)


def save(run: Run) -> None:
    """Report a checkpoint of the run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(run.model, folder / "model")
        run.processor.save_pretrained(folder / "model")
        state = {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "step": run.step,
        }
        torch.save(state, folder / "state.pt")
        (folder / "curve.json").write_text(json.dumps(run.curve))

        # Ray copies the folder before it returns.
        checkpoint, name = Checkpoint.from_directory(folder), CHECKPOINT.format(step=run.step)
        ray.train.report({"step": run.step}, checkpoint=checkpoint, checkpoint_dir_name=name)


def write_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Write the validation curve: pictures seen, then the share of right answers by kind."""
    columns = list(curve[-1])
    lines = ["\t".join(columns)]
    for row in curve:
        lines.append("\t".join(str(row[column]) for column in columns))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(curated: Path, output: Path, params: Path) -> None:
    """Train the tiny base model of the demo world."""
    die_with_parent()
    pretrain(load_params("pretrain", PretrainParams, params), curated, output)


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("pretrain")

"""Stage `pretrain`: train the tiny base LVLM of the demo world from scratch. Frozen: its result is in git.

    make base        (or: python -m flows.pretrain data/curated models/tiny-llava)

Training scenes are drawn without end from a random stream of their own; the validation questions are the curated ones.
A run that was interrupted goes on from its last checkpoint.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from transformers import get_wsd_schedule

from components import schema
from components.losses.autoregressive import autoregressive_loss
from components.model.tiny_llava import TinyLlavaParams, build_tiny_llava
from components.params import Params, load_params
from components.scenes.ask import CAPTION_PROMPT
from components.scenes.converse import all_questions, text_only_turns
from components.scenes.describe import captions, full_caption
from components.scenes.draw import draw_pixels
from components.scenes.world import CELL_ATTRIBUTES, WorldParams, cell_labels, draw_scene, scene_rng
from components.training.pretraining import Encoder, PretrainBatch, answered_right, packed_hidden
from components.training.tower import TowerParams, train_tower
from flows.cluster import connect
from flows.lifetime import die_with_parent

LOG_EVERY = 20  # steps
SUMMARY_PROMPT = "Summarize the image in a few words."  # so that the tokenizer knows its words


class Lesson(Params):
    """A stretch of training on scenes of one kind."""

    num_pictures: int
    world: WorldParams
    captions_only: bool  # ask for nothing but the description: the densest signal there is


class PretrainParams(Params):
    """The base model and its training."""

    seed: int
    lessons: tuple[Lesson, ...]  # one after another; the last one lasts until the end of training
    model: TinyLlavaParams
    num_tokenizer_scenes: int
    num_threads: int
    tower: TowerParams
    num_steps: int
    num_warmup_steps: int
    num_decay_steps: int  # at the end, along a cosine
    batch_size: int  # pictures per step
    learning_rate: float
    weight_decay: float
    max_gradient_norm: float
    blind_fraction: float  # of rows, ask without the picture, so that a blind model guesses well
    validation_pictures: int
    validate_every: int  # steps, with a checkpoint


def pretrain(params: PretrainParams, curated: Path, output: Path) -> None:
    """Train by Ray Train and write the model folder whole or not at all."""
    connect()
    trainer = TorchTrainer(
        pretrain_worker,
        train_loop_config={"params": params.model_dump(), "curated": str(curated.resolve())},
        torch_config=TorchConfig(backend="nccl" if torch.cuda.is_available() else "gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="pretrain",
            storage_path=str(Path(".state/pretrain").resolve()),
            failure_config=FailureConfig(max_failures=3),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with result.checkpoint.as_directory() as folder:
        shutil.copytree(Path(folder) / "model", partial)
        write_curve(json.loads((Path(folder) / "curve.json").read_text()), partial / "pretraining.tsv")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    shutil.rmtree(".state/pretrain")


def pretrain_worker(config: dict) -> None:
    """The loop of the only worker."""
    params = PretrainParams.model_validate(config["params"])
    torch.set_num_threads(params.num_threads)
    model, processor = build_tiny_llava(params.model, tokenizer_texts(params), params.seed)
    encoder = Encoder(processor, model.config.image_seq_length)
    model.model.vision_tower.requires_grad_(False)  # as in LLaVA; its own training is train_tower
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        params.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=params.weight_decay,
    )
    stable = params.num_steps - params.num_warmup_steps - params.num_decay_steps
    schedule = get_wsd_schedule(
        optimizer, params.num_warmup_steps, params.num_decay_steps, num_stable_steps=stable, min_lr_ratio=0.02
    )
    first_step, curve = restore(model, optimizer, schedule)
    if first_step == 0:
        loss = train_tower(model, tower_batches(params, encoder), [len(a) + 1 for a in CELL_ATTRIBUTES], params.tower)
        print(f"pretrain: the vision tower names patches, loss {loss:.3f}", flush=True)
    validation = validation_rows(params, Path(config["curated"]))
    started = time.monotonic()
    for step in range(first_step, params.num_steps):
        batch = draw_batch(params, encoder, step)
        loss = autoregressive_loss(packed_hidden(model, batch), model.lm_head, batch.packed.labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.max_gradient_norm)
        optimizer.step()
        schedule.step()
        done = step + 1
        if done % LOG_EVERY == 0:
            pace = (time.monotonic() - started) / (done - first_step)
            print(
                f"pretrain: step {done}/{params.num_steps} loss {float(loss):.3f} "
                f"{params.batch_size / pace:.0f} pictures/s {pace * (params.num_steps - done) / 60:.0f} min left",
                flush=True,
            )
        if done % params.validate_every == 0 or done == params.num_steps:
            curve.append({"pictures": done * params.batch_size} | validate(model, encoder, validation))
            print(f"pretrain: validation {curve[-1]}", flush=True)
            save(model, processor, optimizer, schedule, done, curve)


def tower_batches(params: PretrainParams, encoder: Encoder) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pictures of the last lesson's world and what their cells show."""
    world = params.lessons[-1].world.model_copy(update={"word_fraction": 0.5})  # letters are rare otherwise
    for step in range(params.tower.num_steps):
        rngs = [
            scene_rng(params.seed, "tower", step * params.tower.batch_size + i) for i in range(params.tower.batch_size)
        ]
        scenes = [draw_scene(rng, world, allow_held_out=False) for rng in rngs]
        pixel_values = encoder.pixel_values([draw_pixels(scene) for scene in scenes])
        if step % LOG_EVERY == 0:
            print(f"pretrain: vision tower: step {step}/{params.tower.num_steps}", flush=True)
        yield pixel_values, torch.from_numpy(np.stack([cell_labels(scene) for scene in scenes]))


def draw_batch(params: PretrainParams, encoder: Encoder, step: int) -> PretrainBatch:
    """Training batch `step`: row by row a function of the seed and the row's index in the stream."""
    pictures, pairs, shown = [], [], []
    for index in range(step * params.batch_size, (step + 1) * params.batch_size):
        lesson = lesson_of(params.lessons, index)
        rng = scene_rng(params.seed, "pretrain", index)
        scene = draw_scene(rng, lesson.world, allow_held_out=False)
        asked = [] if lesson.captions_only else [(q.text, q.answer) for q in all_questions(scene, rng)]
        pictures.append(draw_pixels(scene))
        pairs.append(list(dict.fromkeys([*asked, (CAPTION_PROMPT, full_caption(scene))])))
        shown.append(bool(rng.random() >= params.blind_fraction))
    return encoder.batch(pictures, pairs, shown)


def lesson_of(lessons: tuple[Lesson, ...], index: int) -> Lesson:
    """The lesson in which training picture `index` is drawn."""
    for lesson in lessons:
        if index < lesson.num_pictures:
            return lesson
        index -= lesson.num_pictures
    return lessons[-1]


def tokenizer_texts(params: PretrainParams) -> list[str]:
    """What the tokenizer is trained on: chats and captions of training scenes."""
    texts = [SUMMARY_PROMPT]
    for index in range(params.num_tokenizer_scenes):
        rng = scene_rng(params.seed, "pretrain", index)
        scene = draw_scene(rng, params.lessons[-1].world, allow_held_out=False)
        turns = [(question.text, question.answer) for question in all_questions(scene, rng)] + text_only_turns(rng)
        texts += [f"USER: \n{question} ASSISTANT: {answer}" for question, answer in turns]
        texts += [*captions(scene, rng), f"USER: \n{CAPTION_PROMPT} ASSISTANT: {full_caption(scene)}"]
    return texts


def validation_rows(params: PretrainParams, curated: Path) -> list[tuple[np.ndarray, list[tuple[str, str, str]]]]:
    """Pictures with their (label, question, answer) triples, of the curated validation split."""
    images = pq.read_table(curated / "images/validation").to_pylist()[: params.validation_pictures]
    asked = defaultdict(list)
    for row in pq.read_table(curated / "questions/validation.parquet").to_pylist():
        label = row[schema.KIND] if row[schema.BENCHMARK] == "short_answer" else row[schema.BENCHMARK]
        asked[row[schema.IMAGE_ID]].append((label, row[schema.QUESTION], row[schema.ANSWERS][0]))
    return [(np.asarray(Image.open(BytesIO(row[schema.IMAGE]))), asked[row[schema.IMAGE_ID]]) for row in images]


def validate(model: torch.nn.Module, encoder: Encoder, rows: list) -> dict[str, float]:
    """Share of validation questions answered right, by kind."""
    rights = defaultdict(list)
    model.eval()
    for start in range(0, len(rows), 32):
        chunk = rows[start : start + 32]
        pairs = [[(question, answer) for _, question, answer in triples] for _, triples in chunk]
        batch = encoder.batch([picture for picture, _ in chunk], pairs, [True] * len(chunk))
        for (_, triples), row in zip(chunk, answered_right(model, batch), strict=True):
            for (label, _, _), right in zip(triples, row, strict=True):
                rights[label].append(right)
    return {label: round(float(np.mean(rights[label])), 4) for label in sorted(rights)}


def restore(model, optimizer, schedule) -> tuple[int, list[dict]]:
    """Go on from the run's last checkpoint, if there is one: the next step and the curve so far."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0, []
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
        curve = json.loads((Path(folder) / "curve.json").read_text())
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    print(f"pretrain: goes on at step {state['step']}", flush=True)
    return state["step"], curve


def save(model, processor, optimizer, schedule, step: int, curve: list[dict]) -> None:
    """Report a checkpoint of everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        states = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "model": model.state_dict()}
        torch.save(states | {"step": step}, folder / "state.pt")
        (folder / "curve.json").write_text(json.dumps(curve))
        ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))


def write_curve(curve: list[dict], path: Path) -> None:
    """The validation curve as a table: pictures seen, then the share of right answers by kind."""
    columns = list(curve[-1])
    lines = ["\t".join(columns), *("\t".join(str(row[column]) for column in columns) for row in curve)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    die_with_parent()
    pretrain(load_params("pretrain", PretrainParams), *map(Path, sys.argv[1:]))

"""Speed of answering: from stored tokens against the plain way, in turns, in one run.

    python -m benchmarks.answering --preset demo

and on a GPU

    python -m benchmarks.answering --preset llava-1.5-7b-random --batch-size 128 --max-new-tokens 3

Ours goes from stored tokens and text to text, as `flows/answer_corpus.py` does in a worker. The
plain way opens the picture for every question, runs the uncompressed model on all image tokens, and
decodes with transformers' `generate`. Both batch the same number of questions of like length. FLOPs
are counted by PyTorch, and must equal the formula.
"""

import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.answering_work import (
    COMPRESSOR,
    SharedReading,
    Work,
    batches,
    demo_work,
    large_work,
    ours_flops,
    peft_model,
    plain_flops,
)
from benchmarks.workloads import ROOT
from components.answering.decoding import DecodingParams
from components.answering.job_pieces import answer_piece
from components.answering.prompts import shared_length
from components.answering.questions import Question
from components.answering.results import Answer
from components.costs.flop_counter import flop_counter
from components.costs.training_costs import model_shape
from components.model.chat import encode_prompt
from components.model.families.llava import num_image_tokens
from components.model.generation import end_token_ids, left_pad
from components.params import load_params
from components.pictures import PictureLimits, decode_picture
from flows.workers.compress_worker import CompressParams

Way = Literal["ours", "plain"]
WAYS: tuple[Way, ...] = ("ours", "plain")
Answers = list[tuple[str, int]]  # text and number of new tokens of each
NUM_ALONE = 16  # questions that are asked one by one


def ours(work: Work, batch_size: int) -> Answers:
    """Answer from stored tokens, in pieces as large as the work."""
    pairs = zip(work.image_ids, work.questions, strict=True)
    questions = [Question(row, str(row), *pair) for row, pair in enumerate(pairs)]
    params = DecodingParams(max_new_tokens=work.new_tokens[1], temperature=0.0, top_p=1.0, seed=0)
    found = answer_piece(work.answerer, work.read_tokens, questions, params, batch_size)
    return [(answer.text, answer.new_tokens) for answer in found if isinstance(answer, Answer)]


@torch.inference_mode()
def plain(work: Work, batch_size: int, limits: PictureLimits) -> Answers:
    """Answer from the pictures, each opened again for every question."""
    backbone, answers = work.plain, [("", 0)] * len(work.questions)
    prompts = prompts_of(work, num_image_tokens(backbone.vlm.config))
    for rows in batches([len(prompt) for prompt in prompts], batch_size):
        images = [decode_picture(work.pictures[work.image_ids[row]], limits) for row in rows]
        pixels = backbone.prepare(images).to(backbone.device, backbone.dtype).tensors
        ids, mask = left_pad([prompts[row] for row in rows], backbone.device)

        # transformers reads the prompt and decodes in one call.
        least, most = work.new_tokens
        written = backbone.vlm.generate(
            input_ids=ids,
            attention_mask=mask,
            **pixels,
            min_new_tokens=least,
            max_new_tokens=most,
            do_sample=False,
        )
        for row, tokens in zip(rows, written[:, ids.shape[1] :].tolist(), strict=True):
            answers[row] = described(work, tokens)
    return answers


def described(work: Work, tokens: list[int]) -> tuple[str, int]:
    """Return text and length of an answer, up to its end token."""
    ends = set(end_token_ids(work.plain))
    tokens = list(takewhile(lambda token: token not in ends, tokens))
    return str(work.plain.tokenizer.decode(tokens, skip_special_tokens=True)).strip(), len(tokens)


def prompts_of(work: Work, num_visual_tokens: int) -> list[list[int]]:
    """Encode the prompts of all questions, each different one once."""
    encode = cache(partial(encode_prompt, work.plain.chat, num_visual_tokens=num_visual_tokens))
    return list(map(encode, work.questions))


def measure(
    ways: dict[Way, Callable[[], Answers]], repeats: int
) -> tuple[dict[Way, float], dict[Way, Answers]]:
    """Measure the median seconds of each way, and return them with its answers."""
    answers = {way: ways[way]() for way in WAYS}  # warms up, too
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    for number in range(repeats):
        # In turns, first one and then the other first: a slow minute of the machine meets both.
        for way in WAYS if number % 2 else WAYS[::-1]:
            started = time.perf_counter()
            ways[way]()  # ends with text, so a GPU has finished
            seconds[way].append(time.perf_counter() - started)
    return {way: statistics.median(seconds[way]) for way in WAYS}, answers


def formulas(work: Work, answers: dict[Way, Answers], sizes: dict[Way, int]) -> dict[Way, int]:
    """Count the operations that each way should take for these answers."""
    config, image_token = work.plain.vlm.config, work.plain.image_token_id
    shape, most = model_shape(config, None), work.new_tokens[1]

    # Forward passes of each answer: its end token takes one more, unless it is cut off before.
    ours_passes = [min(length + 1, most) for _, length in answers["ours"]]
    plain_passes = [min(length + 1, most) for _, length in answers["plain"]]

    # The beginning that prompts share is read once, or once for each picture.
    prompts = prompts_of(work, work.read_tokens(work.image_ids[:1]).shape[1])
    reading = SharedReading(
        lead=prompts[0].index(image_token),
        shared=shared_length(prompts, image_token),
        pictures=len(set(work.image_ids)),
    )
    long_prompts = prompts_of(work, num_image_tokens(config))
    return {
        "ours": ours_flops(shape, list(map(len, prompts)), ours_passes, reading, sizes["ours"]),
        "plain": plain_flops(shape, list(map(len, long_prompts)), plain_passes, sizes["plain"]),
    }


@torch.inference_mode()
def peft_answers(work: Work, count: int) -> Answers:
    """Answer the first questions from the same tokens with transformers and PEFT, one by one."""
    model, backbone = peft_model(COMPRESSOR), work.plain
    tokens = torch.from_numpy(work.read_tokens(work.image_ids[:count]))
    most, answers = work.new_tokens[1], []
    for row, prompt in enumerate(prompts_of(work, tokens.shape[1])[:count]):
        embeddings: Tensor = backbone.embed_chat(torch.tensor([prompt]), tokens[row : row + 1])
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        written = model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=most, do_sample=False
        )
        answers.append(described(work, written[0].tolist()))
    return answers


def report(
    preset: str, work: Work, sizes: dict[Way, int], repeats: int, compared: int
) -> dict[str, Any]:
    """Measure one setting: speed, operations and, for the demo, answers.

    Raises AssertionError when operations or answers are not those of the reference.
    """
    limits = load_params("compress", CompressParams, ROOT / "params.yaml").pictures
    ways = ways_of(work, sizes, limits)
    batched, answers = rates(work, ways, repeats)

    # Both ways do the work that they should, and ours gives the right answers.
    counted = {way: count(ways[way]) for way in WAYS}
    expected = formulas(work, answers, sizes)
    assert counted == expected, f"counted {counted}, by formula {expected}"
    same = peft_answers(work, compared) if preset == "demo" else []
    assert answers["ours"][: len(same)] == same, "transformers and PEFT answer something else"

    # The same questions one by one, as a person asks them.
    image_ids, questions = work.image_ids[:NUM_ALONE], work.questions[:NUM_ALONE]
    first = work._replace(image_ids=image_ids, questions=questions)
    alone, _ = rates(first, ways_of(first, dict.fromkeys(WAYS, 1), limits), repeats)

    cpu = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "preset": preset,
        "device": cpu if work.plain.device.type == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "questions": len(work.questions),
        "pictures": len(set(work.image_ids)),
        "batch_size": sizes,
        "max_new_tokens": work.new_tokens[1],
        "questions_per_second": batched,
        "questions_per_second_batch_1": alone,
        "flops_per_question": {way: counted[way] / len(work.questions) for way in WAYS},
        "flops_formula_per_question": {way: expected[way] / len(work.questions) for way in WAYS},
        "answers_compared_with_peft": len(same),
    }


def ways_of(
    work: Work, sizes: dict[Way, int], limits: PictureLimits
) -> dict[Way, Callable[[], Answers]]:
    """Return both ways to answer all questions, in batches of their sizes."""
    return {
        "ours": partial(ours, work, sizes["ours"]),
        "plain": partial(plain, work, sizes["plain"], limits),
    }


def rates(
    work: Work, ways: dict[Way, Callable[[], Answers]], repeats: int
) -> tuple[dict[str, float], dict[Way, Answers]]:
    """Measure questions per second of both ways and their ratio; return them with the answers."""
    seconds, answers = measure(ways, repeats)
    num_questions = len(work.questions)
    found = {str(way): num_questions / seconds[way] for way in WAYS}
    return found | {"ratio": found["ours"] / found["plain"]}, answers


def count(call: Callable[[], Any]) -> int:
    """Count operations with PyTorch, which knows attention as a GPU's kernels or plain products."""
    on_gpu = torch.cuda.is_available()
    kernels = contextlib.nullcontext() if on_gpu else sdpa_kernel(SDPBackend.MATH)
    with kernels, flop_counter() as counter:
        call()
    return counter.get_total_flops()


def table(figures: dict[str, Any]) -> str:
    """Format the figures as a table for people."""
    keys = (
        "preset",
        "device",
        "questions",
        "pictures",
        "batch_size",
        "max_new_tokens",
        "answers_compared_with_peft",
    )
    lines = [f"{key}: {figures[key]}" for key in keys]
    lines.append(f"{'':<30}{'ours':>12}{'plain':>12}{'ratio':>8}")
    for name, key in (("questions/s", ""), ("questions/s, batch 1", "_batch_1")):
        row = figures[f"questions_per_second{key}"]
        lines.append(f"{name:<30}{row['ours']:>12.1f}{row['plain']:>12.1f}{row['ratio']:>8.2f}")
    for name, key in (("MFLOP/question, counted", "flops"), ("by formula", "flops_formula")):
        row = figures[f"{key}_per_question"]
        mega = {way: row[way] / 1e6 for way in WAYS}
        ratio = mega["plain"] / mega["ours"]
        lines.append(f"{name:<30}{mega['ours']:>12.2f}{mega['plain']:>12.2f}{ratio:>8.2f}")
    return "\n".join(lines)


def main(
    preset: Annotated[
        str, typer.Option(help="demo, or llava-1.5-7b-random (needs a GPU).")
    ] = "demo",
    questions: Annotated[int, typer.Option(help="How many.", min=16)] = 512,
    per_picture: Annotated[int, typer.Option(help="Questions about each picture.", min=1)] = 4,
    batch_size: Annotated[int, typer.Option(help="Questions decoded together.", min=1)] = 64,
    plain_batch_size: Annotated[
        int | None,
        typer.Option(help="The same of the plain way, if its cache would not fit.", min=1),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 8,
    repeats: Annotated[int, typer.Option(help="Timed runs of each way.", min=1)] = 5,
    compared: Annotated[
        int, typer.Option(help="Answers compared with transformers and PEFT.", min=0)
    ] = 64,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.", min=1)] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure one setting and print a table."""
    torch.set_num_threads(threads)
    make: Callable[[int, int, int], Work] = demo_work if preset == "demo" else large_work
    sizes: dict[Way, int] = {"ours": batch_size, "plain": plain_batch_size or batch_size}
    figures = report(preset, make(questions, per_picture, max_new_tokens), sizes, repeats, compared)
    print(table(figures))
    if json_path:
        json_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)

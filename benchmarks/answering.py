"""How fast are questions answered? From stored tokens against the plain way, in turns, in one run.

    python -m benchmarks.answering --preset demo
    python -m benchmarks.answering --preset llava-1.5-7b-random --batch-size 128 --max-new-tokens 3   (needs a GPU)

Ours goes from stored tokens and text to text, as `flows/answer_corpus.py` does in a worker. The
plain way opens the picture for every question, runs the uncompressed model on all image tokens, and
decodes with transformers' `generate`. Batches are equal, of questions of like length in both. FLOPs
are counted by PyTorch, and must equal the formula.
"""

import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.answering_work import (
    COMPRESSOR,
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
from components.costs.corpus_plan import merged_shape
from components.model.chat import encode_prompt
from components.model.families.llava import num_image_tokens
from components.model.generation import end_token_ids, left_pad
from components.params import load_params
from components.pictures import PictureLimits, decode_picture
from flows.workers.compress_worker import CompressParams

Way = Literal["ours", "plain"]
WAYS: tuple[Way, ...] = ("ours", "plain")
Answers = list[tuple[str, int]]  # text and new tokens of each


def ours(work: Work, batch_size: int) -> Answers:
    """From stored tokens, in pieces as large as the work."""
    questions = [
        Question(row, str(row), *pair)
        for row, pair in enumerate(zip(work.image_ids, work.questions, strict=True))
    ]
    params = DecodingParams(max_new_tokens=work.new_tokens[1], temperature=0.0, top_p=1.0, seed=0)
    found = answer_piece(work.answerer, work.read_tokens, questions, params, batch_size)
    return [(answer.text, answer.new_tokens) for answer in found if isinstance(answer, Answer)]


@torch.inference_mode()
def plain(work: Work, batch_size: int, limits: PictureLimits) -> Answers:
    """From the pictures, each opened again for every question."""
    backbone, answers = work.plain, [("", 0)] * len(work.questions)
    prompts = prompts_of(work, num_image_tokens(backbone.vlm.config))
    for rows in batches([len(prompt) for prompt in prompts], batch_size):
        images = [decode_picture(work.pictures[work.image_ids[row]], limits) for row in rows]
        pixels = backbone.prepare(images).to(backbone.device, backbone.dtype).tensors
        ids, mask = left_pad([prompts[row] for row in rows], backbone.device)
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
    """An answer up to its end token."""
    ends = set(end_token_ids(work.plain))
    tokens = tokens[: next((place for place, token in enumerate(tokens) if token in ends), None)]
    return str(work.plain.tokenizer.decode(tokens, skip_special_tokens=True)).strip(), len(tokens)


def prompts_of(work: Work, num_visual_tokens: int) -> list[list[int]]:
    prompt_of = {
        text: encode_prompt(work.plain.chat, text, num_visual_tokens)
        for text in set(work.questions)
    }
    return [prompt_of[question] for question in work.questions]


def measure(
    ways: dict[Way, Callable[[], Answers]], repeats: int
) -> tuple[dict[Way, float], dict[Way, Answers]]:
    """Median seconds of each way after one run to warm up, and what it answers."""
    answers = {way: ways[way]() for way in WAYS}
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    for number in range(repeats):
        for way in WAYS if number % 2 else WAYS[::-1]:
            started = time.perf_counter()
            ways[way]()  # ends with text, so a GPU has finished
            seconds[way].append(time.perf_counter() - started)
    return {way: statistics.median(seconds[way]) for way in WAYS}, answers


def formulas(work: Work, answers: dict[Way, Answers], sizes: dict[Way, int]) -> dict[Way, int]:
    """Operations that each way should take for these answers."""
    shape, most = merged_shape(work.plain.vlm.config), work.new_tokens[1]
    passes = {way: [min(count + 1, most) for _, count in answers[way]] for way in WAYS}
    summarised = prompts_of(work, work.read_tokens(work.image_ids[:1]).shape[1])
    shared = shared_length(summarised, work.plain.image_token_id)
    lead = summarised[0].index(work.plain.image_token_id)
    lengths, num_pictures = [len(prompt) for prompt in summarised], len(set(work.image_ids))
    whole = [len(prompt) for prompt in prompts_of(work, num_image_tokens(work.plain.vlm.config))]
    return {
        "ours": ours_flops(
            shape, lengths, passes["ours"], lead, shared, num_pictures, sizes["ours"]
        ),
        "plain": plain_flops(shape, whole, passes["plain"], sizes["plain"]),
    }


@torch.inference_mode()
def peft_answers(work: Work, count: int) -> Answers:
    """What transformers and PEFT answer to the first questions from the same tokens, one by one."""
    model, backbone = peft_model(COMPRESSOR), work.plain
    tokens = torch.from_numpy(work.read_tokens(work.image_ids[:count]))
    answers = []
    for row, prompt in enumerate(prompts_of(work, tokens.shape[1])[:count]):
        embeddings: Tensor = backbone.embed_chat(torch.tensor([prompt]), tokens[row : row + 1])
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
        most = work.new_tokens[1]
        written = model.generate(
            inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=most, do_sample=False
        )
        answers.append(described(work, written[0].tolist()))
    return answers


def report(
    preset: str, work: Work, sizes: dict[Way, int], repeats: int, compared: int
) -> dict[str, Any]:
    """All figures of one setting; raises AssertionError when counts or answers are not what they must be."""
    limits = load_params("compress", CompressParams, ROOT / "params.yaml").pictures
    first = work._replace(image_ids=work.image_ids[:16], questions=work.questions[:16])
    timed: dict[str, Any] = {}
    for name, part, batch in (("batched", work, sizes), ("alone", first, dict.fromkeys(WAYS, 1))):
        ways: dict[Way, Callable[[], Answers]] = {
            "ours": lambda part=part, batch=batch: ours(part, batch["ours"]),  # type: ignore[misc]
            "plain": lambda part=part, batch=batch: plain(part, batch["plain"], limits),  # type: ignore[misc]
        }
        seconds, answers = measure(ways, repeats)
        rates = {way: len(part.questions) / seconds[way] for way in WAYS}
        timed[name] = {**rates, "ratio": rates["ours"] / rates["plain"]}
        if name == "batched":
            counted = {way: count(ways[way]) for way in WAYS}
            expected = formulas(part, answers, batch)
            assert counted == expected, f"counted {counted}, by formula {expected}"
            same = peft_answers(work, compared) if preset == "demo" else []
            assert answers["ours"][: len(same)] == same, (
                "transformers and PEFT answer something else"
            )
    return {
        "preset": preset,
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads"
        if work.plain.device.type == "cpu"
        else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "questions": len(work.questions),
        "pictures": len(set(work.image_ids)),
        "batch_size": sizes,
        "max_new_tokens": work.new_tokens[1],
        "questions_per_second": timed["batched"],
        "questions_per_second_batch_1": timed["alone"],
        "flops_per_question": {way: counted[way] / len(work.questions) for way in WAYS},
        "flops_formula_per_question": {way: expected[way] / len(work.questions) for way in WAYS},
        "answers_compared_with_peft": len(same),
    }


def count(call: Callable[[], Any]) -> int:
    """Operations that PyTorch counts; of attention it knows the kernels of a GPU, and on a CPU plain products."""
    kernels = (
        contextlib.nullcontext() if torch.cuda.is_available() else sdpa_kernel(SDPBackend.MATH)
    )
    with kernels, FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def table(figures: dict[str, Any]) -> str:
    """The figures as a table for people."""
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
        ratio = row["plain"] / row["ours"]
        lines.append(
            f"{name:<30}{row['ours'] / 1e6:>12.2f}{row['plain'] / 1e6:>12.2f}{ratio:>8.2f}"
        )
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

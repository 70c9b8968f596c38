"""Job `check`: every problem that would stop the pipeline, before anything is paid for.

    fwd2bot check

Checks every section of params.yaml, the raw data (some rows of each source are decoded), the base
model, free disk and memory; shows one sample as the model sees it, and runs one forward and
backward pass on the longest rows. Nothing is written. A problem gives exit status 1.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from components import schema
from components.curation.candidates import Candidate
from components.curation.evaluation_files import PICTURES, TABLES
from components.curation.pieces import EVALUATION_SPLITS
from components.curation.query_files import check_query_files
from components.curation.row_preview import Preview, preview_source
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.systems import DOWNSAMPLED, check_downsampling
from components.methods.catalogue import build_method, choose_method
from components.methods.method_settings import ChosenMethod
from components.model.loading import check_base_model, family_of, load_backbone
from components.params import Params, ParamsError, load_params, read_sections
from components.pictures import decode_picture
from components.presets import BASELINES, missing_values, preset_values, read_preset
from components.training.budgets import Budgets
from components.training.collate import SPLITS, TrainSample, collate
from components.training.optimizer import gradient_norm, trained_parameters
from components.training.sample_preview import show_sample
from components.training.sampler import StepSamples
from components.training.step import backward_step
from components.training.text_pairs import as_text_pair
from components.training.training_settings import TrainParams
from flows.curate import CurateParams, with_allowed_roots
from flows.inspect import InspectParams
from flows.report import ReportParams
from flows.running.stored_corpus import quiet_libraries
from flows.workers.compress_worker import CompressParams

SCHEMAS: dict[str, type[Params]] = {
    "curate": CurateParams,
    "train": TrainParams,
    "compress": CompressParams,
    "evaluate": EvaluateParams,
    "inspect": InspectParams,
    "report": ReportParams,
}
PRESETS = Path("presets")
GPU_STAGES = ("train", "compress", "evaluate")
BATCH_ROWS = 4  # conversations, and pairs, of the pass that is tried
COPIES_ON_DISK = 2  # of the pictures while `curate` runs: staging files and shards
SPARE_MEMORY = 1.3  # times the weights, to load a model


class Report:
    """Findings: facts are printed as they come, problems are kept for the end."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def say(self, line: str) -> None:
        print(f"check: {line}", flush=True)

    def attempt(self, look: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of `look`; each line of an error is a problem, and the result None."""
        try:
            return look(self, *arguments)
        except (ValueError, OSError) as error:
            # every section that reads a shared block meets its faults: each is kept once
            known = set(self.problems)
            self.problems += [line for line in str(error).splitlines() if line not in known]
            return None


def check(path: Path, num_rows: int) -> list[str]:
    """Return all problems of a parameter file and of the data it names; facts are printed."""
    # the file
    report = Report()
    report.attempt(look_at_presets, path)
    params = {}
    for name, model in SCHEMAS.items():
        params[name] = report.attempt(look_at_section, path, name, model)
    places = report.attempt(look_at_places, path) or {}
    curate, train = params["curate"], params["train"]
    method = train and report.attempt(look_at_method, train)

    # the data, as far as the file says where they are
    rows: list[Candidate] = []
    curated_bytes = 0
    if curate and "raw_data" in places:
        raw = Path(places["raw_data"]).resolve()
        report.attempt(look_at_evaluation, raw)
        for name, source in curate.sources.items():
            preview = report.attempt(look_at_source, name, source, raw, curate, num_rows)
            if preview:
                rows += preview.accepted
                curated_bytes += preview.curated_bytes
        report.attempt(look_at_disk, curated_bytes)

    # the machine, and a step on it
    gpu_stages = {name: params[name] for name in GPU_STAGES if params[name]}
    report.attempt(look_at_cluster, gpu_stages)
    if "base_model" in places:
        is_there = report.attempt(look_at_base, places["base_model"])
        if is_there and train and params["evaluate"]:
            references = params["evaluate"].references
            report.attempt(look_at_references, places["base_model"], references, train)
        if is_there and method and rows:
            report.attempt(look_at_batch, places["base_model"], train, method, rows)
    return report.problems


def look_at_presets(report: Report, path: Path) -> None:
    """Print the preset that the file has, its places, and the values that were changed since."""
    values = read_sections(path)
    for file in sorted(PRESETS.glob("*.yaml")):
        preset = read_preset(file.stem, PRESETS)
        preset.pop(BASELINES, None)
        changed = missing_values(values, preset)
        set_here = [value.place for value in preset_values(values, preset)]

        # most values of another preset are not in the file
        if 2 * len(changed) > len(set_here):
            continue
        report.say(f"preset {file.stem} sets {', '.join(set_here)}")
        for change in changed:
            report.say(f"  {change.place} is {change.before}, in the preset {change.after}")


def look_at_section(report: Report, path: Path, section: str, model: type[Params]) -> Params:
    """Read one section of the parameter file. Raises ParamsError."""
    params = load_params(section, model, path)
    report.say(f"{path}: {section} fits")
    return params


def look_at_method(report: Report, params: TrainParams) -> ChosenMethod:
    """Read the settings of the method. Raises ParamsError."""
    method = choose_method(params.method)
    report.say(f"components/{params.method.name}.yaml fits")
    return method


def look_at_places(report: Report, path: Path) -> dict[str, str]:
    """Return the two folders that are named at the top of the file. Raises ParamsError."""
    values = read_sections(path)
    found: dict[str, Any] = {}
    problems = []
    for name in ("raw_data", "base_model"):
        found[name] = values.get(name)
        if not isinstance(found[name], str):
            problems.append(f"{path}: {name}: the key is missing")
    if problems:
        raise ParamsError("\n".join(problems))
    report.say(f"raw data in {found['raw_data']}, base model in {found['base_model']}")
    return found


def look_at_evaluation(report: Report, raw: Path) -> None:
    """Check that the evaluation data are where `curate` looks for them."""
    # every missing file at once: they come from several downloads
    missing = []
    for split in EVALUATION_SPLITS:
        folder = raw / "evaluation" / split
        if not (folder / PICTURES).is_dir():
            missing.append(
                f"{folder / PICTURES}: no such folder; `curate` needs evaluation pictures "
                "(docs/data.md)"
            )
        for name, *_ in TABLES:
            if not (folder / name).is_file():
                missing.append(f"{folder / name}: no such file (docs/data.md)")

    if missing:
        raise ValueError("\n".join(missing))
    report.say("evaluation data are there")
    for split in check_query_files(raw, EVALUATION_SPLITS):
        report.say(f"  without queries in evaluation/{split}, which get no scores")


def look_at_source(
    report: Report, name: str, source: Any, raw: Path, params: CurateParams, num_rows: int
) -> Preview:
    """Decode and check some rows of a source. Raises ValueError."""
    preview = preview_source(name, source, raw, with_allowed_roots(params).candidates, num_rows)
    found, lost = len(preview.rows), len(preview.rows) - len(preview.accepted)
    size, about = preview.num_bytes / 1e9, preview.estimated_rows
    report.say(
        f"{name} ({source.format}): {preview.num_files} files, {size:.2f} GB, about {about} rows"
    )
    report.say(f"  of the first {found} rows {found - lost} are kept")
    for detail in preview.details:
        report.say(f"  {detail}")

    # `curate` would stop for the same reasons, after hours
    if not found:
        raise ValueError(f"curate.sources.{name}: the first file has no rows")
    if lost > params.max_reject_fraction * found:
        raise ValueError(
            f"curate.sources.{name}: {lost} of the first {found} rows are rejected "
            f"({', '.join(preview.details)}); mend the source, "
            f"or raise curate.max_reject_fraction ({params.max_reject_fraction})"
        )
    return preview


def look_at_disk(report: Report, curated_bytes: int) -> None:
    """Check that the curated pictures fit on the disk, also while they are being written."""
    needed, free = COPIES_ON_DISK * curated_bytes / 1e9, shutil.disk_usage(".").free / 1e9
    report.say(
        f"disk: about {needed:.1f} GB for curated pictures while they are written, "
        f"{free:.0f} GB are free"
    )
    if needed > free:
        raise ValueError(
            f"disk: curation needs about {needed:.0f} GB here, {free:.0f} GB are free; make room"
        )


def look_at_cluster(report: Report, sections: Mapping[str, Any]) -> None:
    """Check that this machine has the GPUs asked for, unless a cluster is named."""
    if os.environ.get("RAY_ADDRESS"):
        report.say(f"runs on the cluster at {os.environ['RAY_ADDRESS']}, which was not looked at")
        return

    # Ray would wait for a missing GPU without end
    num_gpus = torch.cuda.device_count()
    report.say(f"{os.cpu_count()} CPUs, {num_gpus} GPUs")
    problems = []
    for name, params in sections.items():
        if params.num_workers * params.gpus_per_worker > num_gpus:
            problems.append(
                f"{name}: {params.num_workers} workers with a GPU each, this machine has "
                f"{num_gpus}; lower {name}.num_workers, set {name}.gpus_per_worker to 0, "
                "or name a cluster in RAY_ADDRESS"
            )
    if problems:
        raise ValueError("\n".join(problems))


def look_at_base(report: Report, base: str) -> bool:
    """Check that the base model is there, of a known family, and fits into memory.

    Raises ValueError.
    """
    folder = Path(base)
    if not folder.is_dir():
        raise ValueError(
            f"base_model: there is no folder {base}; "
            f"fetch one with `hf download … --local-dir {base}`"
        )

    # memory: a model that does not fit ends the process without a word
    family = family_of(base, folder)
    needed = SPARE_MEMORY * sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = psutil.virtual_memory().available
    report.say(
        f"{base}: {family.__name__.removesuffix('Backbone')}, "
        f"{needed / SPARE_MEMORY / 1e9:.2f} GB of weights"
    )
    if needed > free:
        raise ValueError(
            f"base_model: {base} needs {needed / 1e9:.0f} GB of memory to be loaded, "
            f"{free / 1e9:.0f} GB are free; run the check on a machine like those that train"
        )

    check_base_model(base, None)
    report.say("  all weights are there")
    return True


def look_at_references(
    report: Report, base: str, references: Sequence[str], params: TrainParams
) -> None:
    """Check that the base model can be asked as `evaluate` will ask it. Raises ValueError."""
    if DOWNSAMPLED in references:
        check_downsampling(base, params.backbone.revision, params.num_summary_tokens)
    report.say(f"evaluate.references: {', '.join(references) or 'none'}")


def look_at_batch(
    report: Report, base: str, params: TrainParams, method: ChosenMethod, rows: list[Candidate]
) -> None:
    """Show a sample, and train a step on the longest rows. Raises ValueError."""
    # an untrained compressor, as the stage builds it
    options = params.backbone
    backbone = load_backbone(
        base, options.revision, options.torch_dtype, options.attention, options.pad_to_square
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_method(backbone.to(device), params.compressor, method, params.seed).train()

    # the rows that take the most memory
    chats, pairs = longest(rows)
    samples = {number: to_sample(row, params) for number, row in enumerate([*chats, *pairs])}
    if chats:
        for line in show_sample(model, samples[0], params.texts).splitlines():
            report.say(line)

    # methods without training have no step; some are trained on texts alone
    if not trained_parameters(model):
        return report.say(f"train.method: {method.name} learns nothing")
    if model.learns_from_texts:
        samples = {number: as_text_pair(sample) for number, sample in samples.items()}

    # one step: forward, backward, and a gradient that is a number
    places = range(len(samples))
    groups = StepSamples(
        tuple(places[: len(chats)]) if params.taught.autoregressive_weight else (),
        tuple(places[len(chats) :]) if params.taught.contrastive_weight else (),
    )
    budgets = Budgets(model.budgets(params.nested_budgets), params.seed, 0)
    split = SPLITS[model.reads_questions]
    batch = collate(samples, groups, model, budgets, params.texts, split).to(device)

    start = time.perf_counter()
    step = backward_step(model, [batch], params.taught)
    losses = {name: float(value) for name, value in step.items()}
    norm = float(gradient_norm(trained_parameters(model).values()))
    seconds = time.perf_counter() - start
    report.say(
        f"forward and backward over {len(chats)} conversations and {len(pairs)} pairs: "
        f"{seconds:.1f} s"
    )
    report.say(f"  {losses}, gradient norm {norm:.3g}")
    if not 0 < norm < float("inf"):
        raise ValueError(
            f"the gradient of a batch has norm {norm}: "
            "look at the sample above, and at the base model"
        )


def longest(rows: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Return the rows with the longest texts: conversations, and pairs of picture and caption."""

    def length(row: Candidate) -> int:
        turns = [turn[schema.CONTENT] for turn in row[schema.CONVERSATION]]
        return sum(map(len, turns)) + len(row[schema.CAPTION] or "")

    chats, pairs = [], []
    for row in sorted(rows, key=length, reverse=True):
        if row[schema.CONVERSATION]:
            chats.append(row)
        if row[schema.CAPTION] and row[schema.IMAGE]:
            pairs.append(row)

    # the first one is shown: it should have a picture
    with_picture = sorted(chats, key=lambda row: row[schema.IMAGE] is None)
    return with_picture[:BATCH_ROWS], pairs[:BATCH_ROWS]


def to_sample(row: Candidate, params: TrainParams) -> TrainSample:
    """Return a row as `train` reads it, with its picture decoded."""
    data = row[schema.IMAGE]
    image = None if data is None else decode_picture(data, params.pictures)
    return TrainSample(row[schema.SAMPLE_ID], image, row[schema.CONVERSATION], row[schema.CAPTION])


def main(params: Path, rows: int) -> None:
    """Print all findings; a problem ends the process with status 1."""
    quiet_libraries()
    read_sections(params)  # raises here, once, when there is no such file
    problems = check(params, rows)
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if problems:
        sys.exit(f"check: {len(problems)} problems")
    print("check: no problems")


if __name__ == "__main__":
    from fwd2bot.commands import run

    run("check")

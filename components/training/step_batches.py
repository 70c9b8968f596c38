"""The steps of a run as batches of one worker.

    sampler --even_chunks--> indices of each chunk --read--> samples --collate--> tensors

The indices depend on the seed and the step alone; the row, its picture and its texts come from the
sample table.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.model.families.llava import LlavaBackbone
from components.training.budgets import Budgets
from components.training.collate import SPLITS, TrainBatch, TrainSample, collate
from components.training.distributed import rank, world_size
from components.training.feature_cache import FeatureCache
from components.training.loader import load_ahead
from components.training.phrases import with_phrases
from components.training.sampler import GroupedSampler, even_chunks
from components.training.samples import SampleTable
from components.training.sharding import with_placeholder
from components.training.text_pairs import as_text_pair
from components.training.training_settings import TrainParams

PHRASES = 5  # random stream; 0 to 3 are the sampler's, 4 is that of the budgets


def training_steps(
    params: TrainParams,
    model: Method,
    table: SampleTable,
    first_step: int,
    report: Callable[[str], None],
) -> Iterator[list[TrainBatch]]:
    """Iterate over this worker's chunks of each step from `first_step` on.

    `report` is called with the progress of work that must be done before the first step.
    """
    # a loss of weight 0 draws no samples
    weights = params.taught
    sampler = GroupedSampler(
        table.has_conversation,
        table.has_other_text if model.learns_from_texts else table.has_caption,
        table.text_lengths,
        params.autoregressive_batch_size if weights.autoregressive_weight else 0,
        params.contrastive_batch_size if weights.contrastive_weight else 0,
        params.length_window_steps,
        params.seed,
    )
    wants_placeholders = params.parallelism == "fsdp" and weights.autoregressive_weight > 0
    budget_sizes = model.budgets(params.nested_budgets)
    split = SPLITS[model.reads_questions]
    read = sample_reader(params, model, table, report)

    # what a wrong phrase may be
    plausible = table.all_phrases if params.texts.phrases_per_caption else frozenset()

    def load(step: int, decoders: Executor) -> list[TrainBatch]:
        chunks = even_chunks(sampler.samples(step), rank(), world_size(), params.samples_per_chunk)

        # a row that is in two chunks is decoded once
        indices: dict[int, None] = {}
        for groups in chunks:
            indices |= dict.fromkeys(groups.members)
        samples = dict(zip(indices, decoders.map(read, indices), strict=True))

        budgets = Budgets(budget_sizes, params.seed, step)
        batches = []
        for groups in chunks:
            members: dict[int, TrainSample] = {i: samples[i] for i in groups.members}
            for index in groups.contrastive:
                rng = np.random.default_rng([params.seed, PHRASES, step, index])
                members[index] = with_phrases(members[index], params.texts, plausible, rng)
            if wants_placeholders:
                members, groups = with_placeholder(members, groups)
            batches.append(collate(members, groups, model, budgets, params.texts, split))
        return batches

    steps = range(first_step, params.loop.num_steps)
    return load_ahead(steps, load, params.decoding_threads_per_worker)


def sample_reader(
    params: TrainParams, model: Method, table: SampleTable, report: Callable[[str], None]
) -> Callable[[int], TrainSample]:
    """Build a function that reads a row: with its picture, with stored features, or as two texts.

    Missing features are computed here. Raises ValueError when the model is none whose features can
    be stored.
    """
    if model.learns_from_texts:
        return lambda index: as_text_pair(table.texts(index))
    if params.feature_cache is None:
        return lambda index: table.sample(index, params.pictures)
    if not isinstance(model.backbone, LlavaBackbone) or not isinstance(model, DoubleForward):
        name = model.backbone.source.name
        raise ValueError(
            f"train.feature_cache is for fwd2bot on a LLaVA-1.5 ({name}); set it to null"
        )

    # every picture once, by the first row that has it
    cache = FeatureCache(Path(params.feature_cache), model.backbone)
    row_of = table.first_of_pictures
    rows = list(row_of.values())
    cache.fill(list(row_of), lambda place: table.picture(rows[place], params.pictures), report)
    return lambda index: table.encoded_sample(index, cache)

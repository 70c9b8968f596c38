"""The steps of a run as batches of one worker: which samples, read from where, in which chunks."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from components.methods.fwd2bot import DoubleForward
from components.methods.method import Method
from components.model.families.llava import LlavaBackbone
from components.training.budgets import Budgets
from components.training.collate import SPLITS, TrainBatch, TrainSample, collate
from components.training.distributed import rank, world_size
from components.training.feature_cache import FeatureCache
from components.training.loader import load_batches
from components.training.negatives import hard_negative
from components.training.sampler import GroupedSampler, StepSamples, even_chunks
from components.training.samples import SampleTable
from components.training.sharding import with_placeholder
from components.training.text_pairs import as_text_pair
from components.training.training_settings import TrainParams

HARD_NEGATIVES = 5  # random stream; 0 to 3 are the sampler's, 4 is that of the budgets


def training_steps(
    params: TrainParams, model: Method, table: SampleTable, step: int, say: Callable[[str], None]
) -> Iterator[list[TrainBatch]]:
    """This worker's chunks of each step from `step` on; the samples of a loss of weight 0 are not drawn.

    `say` hears how far it is with what has to be done before the first step.
    """
    sampler = GroupedSampler(
        table.has_conversation,
        table.has_other_text if model.learns_from_texts else table.has_caption,
        table.text_lengths,
        params.autoregressive_batch_size if params.taught.autoregressive_weight else 0,
        params.contrastive_batch_size if params.taught.contrastive_weight else 0,
        params.length_window_steps,
        params.seed,
    )
    sizes = model.budgets(params.nested_budgets)
    wants_placeholders = params.parallelism == "fsdp" and params.taught.autoregressive_weight > 0

    def batch_of(step: int, samples: Mapping[int, TrainSample], groups: StepSamples) -> TrainBatch:
        if wants_placeholders:
            samples, groups = with_placeholder(samples, groups)
        budgets = Budgets(sizes, params.seed, step)
        return collate(samples, groups, model, budgets, params.texts, SPLITS[model.reads_questions])

    read = sample_reader(params, model, table, say)
    return load_batches(
        range(step, params.loop.num_steps),
        lambda step: even_chunks(
            sampler.samples(step), rank(), world_size(), params.samples_per_chunk
        ),
        lambda index: with_hard_negative(read(index), index, params),
        batch_of,
        params.decoding_threads_per_worker,
    )


def sample_reader(
    params: TrainParams, model: Method, table: SampleTable, say: Callable[[str], None]
) -> Callable[[int], TrainSample]:
    """Reads a row with its picture, or with its features, which are all computed first, or as a pair of texts."""
    if model.learns_from_texts:
        return lambda index: as_text_pair(table.texts(index))
    if params.feature_cache is None:
        return lambda index: table.sample(index, params.pictures)
    if not isinstance(model.backbone, LlavaBackbone) or not isinstance(model, DoubleForward):
        name = model.backbone.source.name
        raise ValueError(
            f"train.feature_cache is for fwd2bot on a LLaVA-1.5 ({name}); set it to null"
        )
    cache, rows = FeatureCache(Path(params.feature_cache), model.backbone), table.first_of_pictures
    places = list(rows.values())
    cache.fill(list(rows), lambda place: table.picture(places[place], params.pictures), say)
    return lambda index: table.encoded_sample(index, cache)


def with_hard_negative(sample: TrainSample, index: int, params: TrainParams) -> TrainSample:
    """The sample with a wrong caption, always the same one, if such are wanted and it has one."""
    groups = params.texts.hard_negatives
    if not groups or sample.caption is None:
        return sample
    rng = np.random.default_rng([params.seed, HARD_NEGATIVES, index])
    return sample._replace(hard_negative=hard_negative(sample.caption, groups, rng))

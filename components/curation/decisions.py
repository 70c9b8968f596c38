"""What the rows are to each other: leaks, repeated ids, duplicates, and the split of every row that stays.

Works on `Checked` rows in input order, a few hundred bytes each, so one process decides about millions of rows at once
and the answer does not depend on which task finished first.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from components import schema
from components.curation.accounting import Outcome
from components.curation.candidates import CandidateParams
from components.curation.deduplication import (
    Checked,
    NearDuplicateParams,
    make_ids_unique,
    reject_duplicate_ids,
    reject_duplicate_pictures,
    reject_duplicate_samples,
    reject_leaks,
    reject_repeated_captions,
    representatives,
)
from components.curation.sources import ONE_CAPTION_FORMATS, Source
from components.curation.splits import split_of
from components.curation.tables import IMAGES, SAMPLES, Shard, ShardRow, plan_shards
from components.curation.work import EVALUATION_SPLITS, pictures_source


class Decisions(NamedTuple):
    """All rows with their final fate, and the split of the training rows that are kept, by id."""

    training: list[Checked]
    evaluation: dict[str, list[Checked]]  # by split
    split_of_sample: dict[str, str]

    def kept_pictures(self) -> dict[str, dict[str, bool]]:
        """By split: every evaluation picture and whether it was kept."""
        return {split: {row.sample_id: row.reason is None for row in rows} for split, rows in self.evaluation.items()}


def decide(
    rows: Sequence[Checked],
    sources: Mapping[str, Source],
    params: CandidateParams,
    seed: int,
    validation_fraction: float,
) -> Decisions:
    """The test pictures have the first claim to a picture, then the validation pictures, then the training rows."""
    evaluation: dict[str, list[Checked]] = {}
    claimed: dict[str, str] = {}  # pixel hash -> name of the evaluation picture
    for split in reversed(EVALUATION_SPLITS):
        pictures = [row for row in rows if row.source == pictures_source(split)]
        evaluation[split] = reject_leaks(pictures, {sha: sha for sha in _hashes(pictures)}, claimed)
        for row in _kept(evaluation[split]):
            claimed.setdefault(str(row.image_sha256), f"{row.source}/{row.sample_id}")
    training = [row for row in rows if row.source in sources]
    known = [row for split in evaluation for row in _kept(evaluation[split])]
    near = _representatives([*known, *_kept(training)], params.near_duplicates)
    training = reject_leaks(training, near, claimed)
    captioned = {name for name, source in sources.items() if source.format != "llava"}
    one_caption = {name for name, source in sources.items() if source.format in ONE_CAPTION_FORMATS}
    training = reject_duplicate_samples(reject_duplicate_ids(training))
    training = reject_duplicate_pictures(training, near, one_caption)
    training = reject_repeated_captions(training, captioned, params.captions.max_rows_per_caption)
    training = make_ids_unique(training)
    splits = {row.sample_id: split_of(_split_key(row, near), seed, validation_fraction) for row in _kept(training)}
    return Decisions(training, evaluation, splits)


def outcomes_of(decisions: Decisions) -> list[Outcome]:
    """The end of every training row and evaluation picture, in input order."""
    rows = [*decisions.training, *(row for split in EVALUATION_SPLITS for row in decisions.evaluation[split])]
    return [Outcome(row.sample_id, row.source, row.reason, row.detail, row.repairs) for row in rows]


def plan_output(decisions: Decisions, rows_per_shard: int) -> list[Shard]:
    """The files of samples and pictures, rows in input order."""
    samples: dict[str, list[Checked]] = {schema.TRAIN: [], schema.VALIDATION: []}
    for row in _kept(decisions.training):
        samples[decisions.split_of_sample[row.sample_id]].append(row)
    folders = [(SAMPLES, samples), (IMAGES, {s: _kept(rows) for s, rows in decisions.evaluation.items()})]
    return [
        shard
        for folder, splits in folders
        for split, rows in sorted(splits.items())
        for shard in plan_shards(folder, split, [_shard_row(row) for row in rows], rows_per_shard)
    ]


def _shard_row(row: Checked) -> ShardRow:
    return ShardRow(row.task, row.position, row.sample_id)


def _representatives(rows: Sequence[Checked], params: NearDuplicateParams) -> dict[str, str]:
    hashes = ((row.image_sha256, row.near_hash) for row in rows if row.image_sha256 is not None)
    num_bits = 3 * params.hash_size**2
    return representatives(hashes, num_bits, params.max_distance)


def _split_key(row: Checked, near: dict[str, str]) -> str:
    return row.sample_id if row.image_sha256 is None else near[row.image_sha256]


def _kept(rows: Sequence[Checked]) -> list[Checked]:
    return [row for row in rows if row.reason is None]


def _hashes(rows: Sequence[Checked]) -> set[str]:
    return {row.image_sha256 for row in rows if row.image_sha256 is not None}

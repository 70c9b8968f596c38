"""Batches of any step: from pictures or stored features, with and without placeholders."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components import schema
from components.methods.fwd2bot import DoubleForward
from components.params import load_params
from components.training.collate import TrainBatch
from components.training.samples import SampleTable, write_sample_file
from components.training.step_batches import training_steps
from components.training.training_settings import TrainParams
from tests.components.training.world import write_curated

ROOT = Path(__file__).parents[3]


@pytest.fixture
def table(tmp_path: Path) -> SampleTable:
    write_curated(tmp_path, num_samples=25, num_validation=2)
    write_sample_file(
        sorted((tmp_path / "samples" / schema.TRAIN).glob("*.parquet")), tmp_path / "samples.arrow"
    )
    return SampleTable(tmp_path / "samples.arrow")


def steps(
    model: DoubleForward, table: SampleTable, step: int, **changes: Any
) -> list[list[TrainBatch]]:
    params = load_params("train", TrainParams, ROOT / "params.yaml")
    micro = {"autoregressive_batch_size": 4, "contrastive_batch_size": 4, "samples_per_chunk": 3}
    micro["loop"] = params.loop.model_dump() | {"num_steps": 5}  # type: ignore[assignment]
    return list(
        training_steps(
            TrainParams.model_validate(params.model_dump() | micro | changes),
            model,
            table,
            step,
            print,
        )
    )


def same(found: list[list[TrainBatch]], expected: list[list[TrainBatch]]) -> bool:
    pairs = [
        (a, b)
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return all(
        torch.equal(x, y)
        for a, b in pairs
        for x, y in zip(tensors_of(a), tensors_of(b), strict=True)
    )


def tensors_of(batch: TrainBatch) -> list[torch.Tensor]:
    return [
        *batch.pictures.tensors.values(),
        *(part for part in batch if isinstance(part, torch.Tensor)),
    ]


def test_a_run_that_goes_on_has_the_batches_of_one_that_did_not_stop(
    model: DoubleForward, table: SampleTable
) -> None:
    whole = steps(model, table, 0)
    assert len(whole) == 5
    assert same(steps(model, table, 3), whole[3:])


def test_features_take_the_place_of_pixels(
    model: DoubleForward, table: SampleTable, tmp_path: Path
) -> None:
    whole, encoded = (
        steps(model, table, 0),
        steps(model, table, 0, feature_cache=str(tmp_path / "features")),
    )
    for chunks, others in zip(whole, encoded, strict=True):
        for chunk, other in zip(chunks, others, strict=True):
            assert not len(other.pictures)
            assert torch.equal(chunk.captions.ids, other.captions.ids)
            if chunk.num_pictures:
                expected = model.backbone.vision_features(chunk.pictures)
                torch.testing.assert_close(other.vision_features, expected)


def test_sharded_workers_always_have_a_conversation_about_a_picture(
    model: DoubleForward, table: SampleTable
) -> None:
    plain, sharded = steps(model, table, 0), steps(model, table, 0, parallelism="fsdp")
    assert not all(len(chunk.conversation_pictures) for chunks in plain for chunk in chunks)
    assert all(len(chunk.conversation_pictures) for chunks in sharded for chunk in chunks)
    only_pairs = {
        "autoregressive_weight": 0.0,
        "contrastive_weight": 1.0,
        "max_similarity_weight": 0.0,
    }
    pairs = steps(model, table, 0, parallelism="fsdp", losses=only_pairs)
    assert not any(len(chunk.conversation_ids) for chunks in pairs for chunk in chunks)

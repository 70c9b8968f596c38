"""Values that do not go together are refused before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.params import load_params
from components.training.training_settings import TrainParams

ROOT = Path(__file__).parents[3]


def merged(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    parts = {k: merged(section[k], v) if isinstance(v, dict) else v for k, v in changes.items()}
    return section | parts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nested_budgets": (1, 8)}, r"is not num_summary_tokens 4"),
        ({"nested_budgets": (1, 2)}, r"is not num_summary_tokens 4"),
        ({"nested_budgets": (1, 4), "attention": "bidirectional"}, "need attention: causal"),
        (
            {"nested_budgets": (1, 4), "method": {"name": "baselines/single_forward"}},
            "are for fwd2bot",
        ),
        (
            {"attention": "bidirectional", "backbone": {"attention": "flash_attention_2"}},
            "needs backbone.attention sdpa",
        ),
        (
            {"adapters": {"sharing": "none"}, "backbone": {"dtype": "bfloat16"}},
            "set backbone.dtype to float32",
        ),
        ({"adapters": {"sharing": "none"}, "parallelism": "fsdp"}, "use ddp"),
        (
            {"method": {"name": "baselines/single_forward"}, "feature_cache": "folder"},
            "feature_cache is for fwd2bot",
        ),
        (
            {"method": {"name": "baselines/quecc"}, "texts": {"max_row_tokens": 256}},
            "quecc asks each question in a row of its",
        ),
        (
            {"method": {"name": "baselines/dual_encoder"}, "parallelism": "fsdp"},
            "which dual_encoder does not read",
        ),
        (
            {"method": {"name": "baselines/mqt", "module_steps": 1800}},
            "leaves none of loop.num_steps 1800",
        ),
        ({"method": {"module_steps": -1}}, "greater than or equal to 0"),
        ({"alignment": {"num_steps": 2000}}, "exceeds loop.num_steps 1800"),
        (
            {"alignment": {"num_steps": 10}, "losses": {"contrastive_weight": 0.0}},
            "contrastive_weight > 0",
        ),
        (
            {"losses": {"contrastive_weight": 0.0, "max_similarity_weight": 0.1}},
            "max_similarity_weight needs losses.contrastive_weight > 0",
        ),
        (
            {"alignment": {"num_steps": 10}, "method": {"name": "baselines/single_forward"}},
            "are for fwd2bot",
        ),
        ({"num_workers": 3}, "is not a multiple of num_workers"),
        ({"num_workers": 2, "contrastive_batch_size": 33}, "is not a multiple of num_workers"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    params = load_params("train", TrainParams, ROOT / "params.yaml")
    with pytest.raises(ValidationError, match=message):
        TrainParams.model_validate(merged(params.model_dump(), changes))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baselines/stf", 100),
        ("baselines/m3", 0),
        ("baselines/prumerge", 0),
        ("methods/fwd2bot", 0),
    ],
)
def test_only_new_modules_learn_by_themselves_at_first(name: str, expected: int) -> None:
    params = load_params("train", TrainParams, ROOT / "params.yaml").model_dump()
    found = TrainParams.model_validate(merged(params, {"method": {"name": name}}))
    assert found.method.num_module_steps == expected

import torch
from torch import nn

from components.costs.flop_counter import flop_counter
from components.costs.inference_costs import (
    MethodCosts,
    ModelSize,
    Workload,
    compression_flops,
    cost_table,
    picture_question_flops,
    stored_bytes,
    stored_question_flops,
)
from components.methods.blocks.vision_tower import matrix_weights

SIZE = ModelSize(language_model=1000, vision=100)


def test_the_papers_storage_example() -> None:
    assert stored_bytes(16, 4096) == 128 * 1024


def test_two_operations_per_weight_and_token_is_what_torch_counts() -> None:
    layers = nn.Sequential(
        nn.Linear(16, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 16, bias=False)
    )
    with flop_counter() as counter:
        layers(torch.zeros(5, 16))
    assert counter.get_total_flops() == 2 * matrix_weights(layers) * 5


def test_a_patch_convolution_counts_like_a_linear_layer() -> None:
    patches = nn.Conv2d(3, 8, kernel_size=4, stride=4)
    with flop_counter() as counter:
        patches(torch.zeros(1, 3, 16, 16))
    assert counter.get_total_flops() == 2 * matrix_weights(patches) * 16


def test_the_formulas_by_hand() -> None:
    assert compression_flops(SIZE, 36, 4) == 2 * (100 * 36 + 1000 * 40)
    assert stored_question_flops(SIZE, 4, 10, 2) == 2 * 1000 * 16
    assert picture_question_flops(SIZE, 36, 10, 2) == 2 * (100 * 36 + 1000 * 48)


def test_the_table_compares_like_with_like() -> None:
    systems = ("compressed", "uncompressed", "average_pooled", "downsampled", "blind")
    method = MethodCosts(compression_flops(SIZE, 36, 4), 8_000, 2_000, 2_000, is_stored=True)
    # nothing stands where the picture would be
    asked = dict.fromkeys(systems, 10.0) | {"blind": 9.0}
    load = Workload(36, 4, 3, 8, asked, dict.fromkeys(systems, 2.0))
    table = cost_table(SIZE, load, method)
    assert table["visual_tokens"] == {
        "compressed": 4,
        "uncompressed": 36,
        "average_pooled": 4,
        "downsampled": 3,
        "blind": 0,
    }
    assert table["bytes_per_picture"] == {
        "compressed": 64,
        "uncompressed": 576,
        "average_pooled": 64,
        "downsampled": 48,
        "blind": 0,
    }
    assert (
        table["flops_per_question"]["compressed"]
        == table["flops_per_question"]["average_pooled"]
        == 32_000
    )
    assert table["flops_per_question"]["uncompressed"] == 2 * (100 * 36 + 1000 * 48)
    assert table["flops_per_question"]["blind"] == 2 * 1000 * 11
    assert table["flops_per_question"]["downsampled"] == 2 * 1000 * 15
    assert table["flops_per_picture"]["compressed"] == 2 * (100 * 36 + 1000 * 40)
    assert table["flops_per_picture"]["downsampled"] == 2 * 100 * 3
    # every question reads the picture again
    unstored = cost_table(SIZE, load, method._replace(is_stored=False))
    assert (
        unstored["flops_per_picture"]["compressed"]
        == unstored["flops_per_picture"]["uncompressed"]
        == 0
    )
    assert unstored["bytes_per_picture"]["compressed"] is None
    silent = cost_table(SIZE, load, method._replace(per_question=None))
    assert silent["flops_per_question"]["compressed"] is None

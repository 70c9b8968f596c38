"""The plan against figures computed elsewhere for the published shapes, and against arithmetic."""

import pytest

from components.costs.corpus_plan import Corpus, Machines, Plan, make_plan
from components.costs.llava_shapes import SEVEN_B, THIRTEEN_B, Size, llava_config

MACHINES = Machines(num_gpus=8, flops=790e12, price=3.5)
BYTES = {"float16": 2 * 4096, "rotated4": 2048 + 4}


def plan(
    size: Size, num_summary_tokens: int, num_pictures: float = 1e6, answer_tokens: int = 3
) -> Plan:
    corpus = Corpus(num_pictures, num_summary_tokens, 11, 60, answer_tokens, rows_per_shard=4096)
    return make_plan(llava_config(size), corpus, MACHINES, BYTES)


# TFLOP per picture with causal attention counted by half, which is 1 % less: vision tower of 23
# layers, connector, decoder whose last layer reads on at the summary tokens only.
@pytest.mark.parametrize(
    ("size", "num_summary_tokens", "expected"),
    [(SEVEN_B, 4, 7.94), (SEVEN_B, 16, 8.10), (SEVEN_B, 32, 8.31), (THIRTEEN_B, 16, 15.54)],
)
def test_compression_of_the_published_shapes(
    size: Size, num_summary_tokens: int, expected: float
) -> None:
    assert 1.0 < plan(size, num_summary_tokens).flops_per_picture / (expected * 1e12) < 1.015


def test_a_question_costs_what_its_tokens_cost() -> None:
    """7B: 6.476 G weights that multiply, 131 M in the head; 76 tokens at once, 2 one by one."""
    per_token = 2 * 6.476e9
    expected = 78 * per_token + 3 * 2 * 4096 * 32064
    # the last layer keeps one place
    assert plan(SEVEN_B, 16).flops_per_question == pytest.approx(expected, rel=0.04)
    ratio = plan(SEVEN_B, 16).flops_per_question_with_picture / plan(SEVEN_B, 16).flops_per_question
    assert ratio == pytest.approx(8.7, abs=0.1)


def test_hours_days_and_money_are_operations_by_rate() -> None:
    found = plan(SEVEN_B, 16)
    assert found.compression.flops == found.flops_per_picture * 1e6
    # 97.6 pictures/s at this rate
    assert found.compression.gpu_hours == pytest.approx(1e6 / 97.6 / 3600, rel=0.015)
    assert found.compression.days == pytest.approx(found.compression.gpu_hours / 8 / 24)
    assert found.compression.cost == pytest.approx(found.compression.gpu_hours * 3.5)


def test_bytes_and_files_grow_with_the_corpus() -> None:
    found = plan(SEVEN_B, 16, num_pictures=1e6 + 1)
    assert found.stored_bytes == {
        "float16": 16 * 8192 * 1_000_001,
        "rotated4": 16 * 2052 * 1_000_001,
    }
    assert found.num_files == 245
    assert found.index_memory_bytes == {
        "exact": 4 * 4096 * 1_000_001,
        "approximate": 520 * 1_000_001,
    }
    assert found.index_disk_bytes == {
        "exact": 4 * 4096 * 1_000_001,
        "approximate": (4 * 4096 + 520) * 1_000_001,
    }


def test_every_new_token_of_an_answer_costs_a_pass_and_a_head() -> None:
    three, four = (plan(SEVEN_B, 16, answer_tokens=number).flops_per_question for number in (3, 4))
    assert four - three == pytest.approx(2 * 6.476e9 + 2 * 4096 * 32064, rel=0.01)

"""PyTorch counts the operations of the formulas, whatever shares, pads and ends early."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from benchmarks.answering import count, formulas, ours, plain
from benchmarks.answering_work import Work
from components.model.adapters import GENERATION
from tests.components.compression.models import LIMITS
from tests.components.model.tiny import COMPRESSOR, TINY, compressor, load, write_tiny_llava

QUESTIONS = [
    "what?",
    "what colour is the small circle above the star?",
    "is it large?",
    "how many are there, then?",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = write_tiny_llava(tmp_path_factory.mktemp("models") / "tiny-llava")
    model, rng = compressor(folder), np.random.default_rng(0)
    tokens = {
        name: rng.normal(size=(COMPRESSOR.num_summary_tokens, TINY.text_hidden_size))
        for name in "ab"
    }

    def read_tokens(ids: Sequence[str]) -> np.ndarray:
        return np.stack([tokens[image_id] for image_id in ids]).astype(np.float32)

    stream = io.BytesIO()
    Image.new("RGB", (48, 40), (200, 30, 30)).save(stream, "PNG")
    pictures = dict.fromkeys("ab", stream.getvalue())
    model.adapters.merge(GENERATION)
    return Work(
        model.backbone,
        load(folder).eval(),
        read_tokens,
        pictures,
        [*"aaaabbbb"],
        QUESTIONS * 2,
        (1, 9),
    )


@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize("batch_size", [3, 8])
def test_counted_operations_are_those_of_the_formulas(
    work: Work, batch_size: int, ends_early: bool
) -> None:
    backbones = (work.answerer, work.plain)
    for backbone in backbones:
        backbone.vlm.generation_config.eos_token_id = [2]
    if ends_early:  # tokens that some answers hold
        said = work.plain.tokenizer(ours(work, 8)[0][0], add_special_tokens=False)["input_ids"]
        for backbone in backbones:
            backbone.vlm.generation_config.eos_token_id = [2, *said[2:]]
    answers = {"ours": ours(work, batch_size), "plain": plain(work, batch_size, LIMITS)}
    lengths = {count for _, count in answers["ours"]}
    assert (min(lengths) < 9) == ends_early
    expected = formulas(work, answers, dict.fromkeys(answers, batch_size))  # type: ignore[arg-type]
    assert count(lambda: ours(work, batch_size)) == expected["ours"]
    assert count(lambda: plain(work, batch_size, LIMITS)) == expected["plain"]


def test_answers_of_the_plain_way_do_not_depend_on_the_batch(work: Work) -> None:
    assert plain(work, 1, LIMITS) == plain(work, 8, LIMITS)

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from components import schema
from components.methods.fwd2bot import DoubleForward
from components.model.chat import encode_prompt
from components.training.validation_scores import (
    Question,
    ValidationParams,
    ValidationSet,
    compress,
    load_validation_set,
    plain,
    recall_at_1,
    spread,
    validate,
)
from tests.components.training.world import LIMITS, in_processes, sample, write, write_curated

PARAMS = ValidationParams(num_pictures=3, num_questions=2, batch_size=2, max_new_tokens=4)


def build_set(model: DoubleForward) -> ValidationSet:
    """Five pictures; of the answers three are what the model says itself."""
    rows = [sample(5 * i) for i in range(5)]
    pictures = [row.image for row in rows if row.image]
    said = []
    for picture in pictures:
        prompt = encode_prompt(model.backbone.chat, "what colour?", model.num_summary_tokens)
        (ids,) = model.answer(compress(model, [picture]).detach(), [prompt], 4)
        said.append(model.backbone.tokenizer.decode(ids, skip_special_tokens=True))
    questions = [
        Question(i, "what colour?", [f" {text.upper()}"] if i < 3 else ["no"])
        for i, text in enumerate(said)
    ]
    return ValidationSet(pictures, [row.caption or "" for row in rows], questions)


def test_recall_counts_the_diagonal_and_the_first_of_equals() -> None:
    logits = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]])
    assert recall_at_1(logits) == pytest.approx(1 / 3)
    assert recall_at_1(torch.ones(4, 4)) == 0.25


def test_answers_are_counted_and_the_batch_size_does_not_matter(model: DoubleForward) -> None:
    data = build_set(model.eval())
    model.train()
    results = [validate(model, data, batch_size, 4, 20) for batch_size in (1, 2, 8)]
    assert results[0]["short_answer_accuracy"] == pytest.approx(3 / 5)
    assert all(result == pytest.approx(results[0]) for result in results)
    recall = (results[0]["recall_at_1_image_to_text"] + results[0]["recall_at_1_text_to_image"]) / 2
    assert results[0]["score"] == pytest.approx((recall + 3 / 5) / 2)
    assert model.training


def validation_worker(rank: int, folder: Path, model: DoubleForward, data: ValidationSet) -> None:
    torch.save(validate(model, data, 2, 4, 20), folder / f"{rank}.pt")


def test_two_workers_share_the_work_and_agree(model: DoubleForward, tmp_path: Path) -> None:
    data = build_set(model.eval())
    in_processes(2, validation_worker, tmp_path, model, data)
    expected = validate(model, data, 2, 4, 20)
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == expected


def test_the_slice_is_spread_over_the_split(tmp_path: Path) -> None:
    write_curated(tmp_path, num_samples=1, num_validation=6)
    data = load_validation_set(tmp_path, PARAMS, LIMITS)
    assert data.captions == [sample(5 * i + 1).caption for i in (0, 2, 4)]
    assert [question.picture for question in data.questions] == [0, 1]
    assert data.questions[1].answers == [sample(11).conversation[1]["content"].strip()]


def test_a_split_without_questions_is_refused(tmp_path: Path) -> None:
    write_curated(tmp_path, num_samples=1, num_validation=6)
    path = tmp_path / "questions" / "validation.parquet"
    rows = [row | {schema.BENCHMARK: "existence"} for row in pq.read_table(path).to_pylist()]
    write(path, rows, schema.QUESTIONS)
    with pytest.raises(ValueError, match="3 captioned pictures and 0 questions"):
        load_validation_set(tmp_path, PARAMS, LIMITS)


def test_spread_takes_all_or_evenly() -> None:
    assert spread(list(range(10)), 20) == list(range(10))
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]


def test_answers_are_compared_up_to_case_and_period() -> None:
    assert plain(" Red. ") == "red"

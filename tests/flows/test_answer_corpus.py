"""The batch job on a real store: each row is answered or rejected; a kill changes no byte.

One run goes through Ray; the others call the worker in this process, which gives the same bytes.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from components.answering.decoding import DecodingParams
from components.answering.results import Asked
from components.compression.identity import provenance_of
from components.store.store_reader import StoreReader
from components.store.unfinished_store import partial_folder
from flows.answer import answer
from flows.answer_corpus import answer_corpus
from flows.workers.answer_corpus_worker import AnswerParams, QuestionAnswerer
from tests.components.compression.models import write_models
from tests.components.store.stores import random_rows, write_store

NEW_TOKENS = 6
DRAWN = DecodingParams(max_new_tokens=NEW_TOKENS, temperature=1.5, top_p=0.9, seed=3)
PARAMS = AnswerParams(
    decoding=DRAWN.model_copy(update={"temperature": 0.0}),
    batch_size=2,
    rows_per_piece=3,
    num_workers=1,
    cpus_per_worker=1,
    gpus_per_worker=0,
)
TEXTS = ["what?", "what colour is the small circle?", "is it large?"]
BAD = {
    "unknown_image": {"image_id": "none.png", "question": "what?"},
    "empty_question": {"image_id": "0.png", "question": " "},
    "too_long": {"image_id": "0.png", "question": "large " * 3000},
}


@pytest.fixture(scope="module")
def compressor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def store(compressor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    provenance = provenance_of(compressor, "float16", "float32")
    parts = [
        random_rows(ids, seed, provenance)
        for seed, ids in enumerate((["0.png", "1.png"], ["2.png", "3.png"]))
    ]
    return write_store(tmp_path_factory.mktemp("stores") / "store", parts, provenance)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = [
        {"image_id": f"{number % 4}.png", "question": TEXTS[number % 3]} for number in range(8)
    ]
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, *BAD.values()])))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_here(
    params: AnswerParams, task: dict[str, Any], pieces: Sequence[list[Asked]], todo: Sequence[int]
) -> Iterator[int]:
    """The worker without Ray around it."""
    worker = QuestionAnswerer(params.model_dump(), task)
    for number in todo:
        yield int(worker({"piece": json.dumps([number, pieces[number]])})["number"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.answer_corpus.run_workers", run_here)


def test_every_row_is_answered_as_one_question_is_or_rejected(
    store: Path,
    compressor: Path,
    questions: Path,
    local_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "answers.jsonl"
    manifest = answer_corpus(PARAMS, questions, output, store, compressor, None, "own_picture")
    answers, asked = lines(output), lines(questions)
    assert [(row["image_id"], row["question"]) for row in answers] == [
        (row["image_id"], row["question"]) for row in asked[:8]
    ]
    reader = StoreReader.open(store)
    for row in answers[:4]:
        assert row["answer"] == answer(
            reader, compressor, None, row["image_id"], row["question"], NEW_TOKENS
        )
    rejects = lines(tmp_path / "answers.jsonl.rejects.jsonl")
    assert [(reject["row"], reject["reason"]) for reject in rejects] == list(
        enumerate(BAD, start=8)
    )
    assert (manifest["rows_in"], manifest["rows_answered"], manifest["rows_rejected"]) == (
        11,
        8,
        dict.fromkeys(BAD, 1),
    )
    assert manifest == json.loads((tmp_path / "answers.jsonl.manifest.json").read_text())
    assert manifest["store"]["provenance"] == reader.provenance.model_dump(mode="json")
    assert not partial_folder(output).exists()

    before = output.stat().st_mtime_ns
    assert (
        answer_corpus(PARAMS, questions, output, store, compressor, None, "own_picture") == manifest
    )
    assert output.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds something else"):
        answer_corpus(PARAMS, questions, output, store, compressor, None, "every_picture")

    monkeypatch.setattr("flows.answer_corpus.run_workers", run_here)
    (tmp_path / "here").mkdir()
    here = tmp_path / "here" / output.name
    assert (
        answer_corpus(PARAMS, questions, here, store, compressor, None, "own_picture") == manifest
    )
    for path in here.parent.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_a_killed_run_ends_with_the_same_bytes_and_drawn_answers_too(
    store: Path,
    compressor: Path,
    questions: Path,
    local_ray: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The state a kill leaves: a piece whole, one cut, one without its note."""
    params = PARAMS.model_copy(update={"decoding": DRAWN})
    names = ("answers.parquet", "answers.parquet.rejects.jsonl", "answers.parquet.manifest.json")
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("flows.answer_corpus.run_workers", run_here)
        answer_corpus(
            params,
            questions,
            tmp_path / "undisturbed" / names[0],
            store,
            compressor,
            None,
            "own_picture",
        )

    output = tmp_path / "killed" / names[0]
    with monkeypatch.context() as patch:
        patch.setattr("flows.answer_corpus.run_workers", run_here)
        patch.setattr("flows.answer_corpus.publish_answers", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            answer_corpus(params, questions, output, store, compressor, None, "own_picture")
    assert not output.exists()
    (work,) = partial_folder(output).glob("*/")
    pieces = work / "shards"
    (pieces / "part-00000.parquet").write_bytes((pieces / "part-00000.parquet").read_bytes()[:-10])
    (work / "done" / "part-00001.parquet.json").unlink()
    untouched = (pieces / "part-00002.parquet").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr("flows.answer_corpus.run_workers", run_here)
        patch.setattr("flows.answer_corpus.shutil.rmtree", lambda _: None)
        answer_corpus(params, questions, output, store, compressor, None, "own_picture")
    assert (pieces / "part-00002.parquet").stat().st_mtime_ns == untouched
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (
            tmp_path / "undisturbed" / name
        ).read_bytes()
    table = pq.read_table(output)
    assert table.column_names == ["question_id", "image_id", "question", "answer", "new_tokens"]
    assert table.num_rows == 8
    assert len(set(table["answer"].to_pylist())) > 4


def test_every_picture_is_asked(store: Path, compressor: Path, here: None, tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("question\nwhat?\nis it large?\n")
    output = tmp_path / "answers.jsonl"
    other = PARAMS.model_copy(update={"batch_size": 100, "rows_per_piece": 100})
    answer_corpus(
        other, tmp_path / "questions.csv", output, store, compressor, None, "every_picture"
    )
    assert [(row["image_id"], row["question_id"]) for row in lines(output)] == [
        (image_id, number) for image_id in StoreReader.open(store).ids for number in ("0", "1")
    ]


def test_errors_say_what_to_do(
    store: Path, compressor: Path, questions: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"written as \.jsonl or \.parquet"):
        answer_corpus(
            PARAMS, questions, tmp_path / "answers.txt", store, compressor, None, "own_picture"
        )
    (tmp_path / "questions.csv").write_text("image_id,question\nnone.png,what?\n")
    with pytest.raises(ValueError, match=r"none of 1 rows can be asked.*no picture 'none.png'"):
        answer_corpus(
            PARAMS,
            tmp_path / "questions.csv",
            tmp_path / "a.jsonl",
            store,
            compressor,
            None,
            "own_picture",
        )
    assert not (tmp_path / "a.jsonl").exists()

"""Every job names what it did not write, and leaves it alone, before it does anything else."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.answering.decoding import DecodingParams
from components.evaluation.evaluation_settings import EvaluateParams
from components.files.locks import BusyError
from components.files.outputs import only_writer
from components.files.written import LIST, OutputError
from components.methods.fwd2bot import DoubleForward
from components.params import load_params
from components.reporting.inputs import Places
from components.search.index_manifest import IndexFolderError
from components.store.not_stored import write_reason
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader
from components.training.training_settings import TrainParams
from flows import codecs, index, recode, sweep
from flows.answer_corpus import answer_corpus
from flows.compress import compress
from flows.curate import CurateParams, curate
from flows.evaluate import evaluate
from flows.export_vllm import export_vllm
from flows.graft import graft
from flows.inspect import InspectParams, inspect
from flows.pretrain import PretrainParams, pretrain
from flows.report import ReportParams, report
from flows.scenes import ScenesParams, scenes
from flows.train import train
from flows.workers.answer_corpus_worker import AnswerParams
from flows.workers.compress_worker import CompressParams
from fwd2bot.commands.corpus import search
from tests.components.store.stores import PROVENANCE, random_rows, write_store

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params.yaml"
PARTS = [random_rows(["a", "b"], 0)]
ANSWER = AnswerParams(
    decoding=DecodingParams(max_new_tokens=1, temperature=0.0, top_p=1.0, seed=0),
    batch_size=1,
    rows_per_piece=1,
    num_workers=1,
    cpus_per_worker=1,
    gpus_per_worker=0,
)
Run = Callable[[Path, Path], object]  # inputs, output


def a_store(inputs: Path) -> Path:
    return (
        inputs / "store"
        if (inputs / "store").exists()
        else write_store(inputs / "store", PARTS, PROVENANCE)
    )


def run_scenes(_: Path, output: Path) -> None:
    scenes(load_params("scenes", ScenesParams, PARAMS), output)


def run_curate(inputs: Path, output: Path) -> None:
    curate(load_params("curate", CurateParams, PARAMS), inputs / "raw", output)


def run_pretrain(inputs: Path, output: Path) -> None:
    params = load_params("pretrain", PretrainParams, ROOT / "flows/pretrain.yaml")
    pretrain(params, inputs / "curated", output)


def run_train(inputs: Path, output: Path) -> None:
    places = [output, inputs / "live", inputs / "times", inputs / "state"]
    train(
        load_params("train", TrainParams, PARAMS),
        DoubleForward.chosen,
        inputs / "curated",
        "base",
        *places,
    )


def run_train_metrics(inputs: Path, output: Path) -> None:
    places = [inputs / "compressor", output, inputs / "times", inputs / "state"]
    train(
        load_params("train", TrainParams, PARAMS),
        DoubleForward.chosen,
        inputs / "curated",
        "base",
        *places,
    )


def run_evaluate(inputs: Path, output: Path) -> None:
    places = [
        inputs / "compressor",
        inputs / "store",
        output,
        inputs / "metrics.json",
        inputs / "headline.json",
        inputs / "timings.json",
    ]
    evaluate(load_params("evaluate", EvaluateParams, PARAMS), inputs / "curated", *places)


def run_analyse(inputs: Path, output: Path) -> None:
    params = load_params("inspect", InspectParams, PARAMS)
    inspect(params, inputs / "curated", inputs / "compressor", inputs / "store", output)


def run_export(inputs: Path, output: Path) -> None:
    export_vllm(
        output,
        StoreReader.open(a_store(inputs)),
        inputs / "compressor",
        None,
        "a",
        "what is it?",
        1,
    )


def run_graft(_: Path, output: Path) -> None:
    graft("base", "model", output)


def run_compress(inputs: Path, output: Path) -> None:
    compress(
        load_params("compress", CompressParams, PARAMS),
        str(inputs),
        ROOT / "models/none",
        output,
        None,
    )


def run_recode(inputs: Path, output: Path) -> None:
    recode.recode(inputs / "store", output, "int8", None, 1)


def run_index(inputs: Path, output: Path) -> None:
    index.build([a_store(inputs)], output, "exact", 1)


def run_index_add(inputs: Path, output: Path) -> None:
    index.add(output, [a_store(inputs)])


def run_metrics(inputs: Path, output: Path) -> None:
    places = [
        inputs / "compressor",
        inputs / "store",
        inputs / "evaluation",
        output,
        inputs / "headline.json",
        inputs / "timings.json",
    ]
    evaluate(load_params("evaluate", EvaluateParams, PARAMS), inputs / "curated", *places)


def run_headline(inputs: Path, output: Path) -> None:
    places = [
        inputs / "compressor",
        inputs / "store",
        inputs / "evaluation",
        inputs / "metrics.json",
        output,
        inputs / "timings.json",
    ]
    evaluate(load_params("evaluate", EvaluateParams, PARAMS), inputs / "curated", *places)


def run_timings(inputs: Path, output: Path) -> None:
    places = [
        inputs / "compressor",
        inputs / "store",
        inputs / "evaluation",
        inputs / "metrics.json",
        inputs / "headline.json",
        output,
    ]
    evaluate(load_params("evaluate", EvaluateParams, PARAMS), inputs / "curated", *places)


def run_codecs(inputs: Path, output: Path) -> None:
    codecs.score_codecs(inputs / "curated", inputs / "compressor", inputs / "store", output)


def run_report(inputs: Path, output: Path) -> None:
    places = Places(*(inputs / name for name in Places._fields))
    report(load_params("report", ReportParams, PARAMS), places, output)


def run_answers(inputs: Path, output: Path) -> None:
    (inputs / "questions.jsonl").touch()
    (inputs / "store").mkdir(exist_ok=True)
    answer_corpus(
        ANSWER,
        inputs / "questions.jsonl",
        output,
        inputs / "store",
        inputs / "model",
        None,
        "own_picture",
    )


def run_search(inputs: Path, output: Path) -> None:
    (inputs / "queries.txt").write_text("a dog\n")
    what_search_says(
        queries=inputs / "queries.txt",
        output=output,
        store=inputs / "store",
        compressor=inputs / "model",
    )


def what_search_says(**arguments: Any) -> None:
    """Raises OutputError with the last words of the command."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            search(**arguments)
    except SystemExit:
        raise OutputError(said.getvalue()) from None


def run_table(_: Path, output: Path) -> None:
    sweep.check_data(output)


WITH_LIST: list[Run] = [
    *(
        run_scenes,
        run_curate,
        run_pretrain,
        run_train,
        run_train_metrics,
        run_evaluate,
        run_analyse,
    ),
    *(run_export, run_graft),
]
OTHER_FOLDERS: list[Run] = [run_compress, run_recode, run_index, run_index_add]
FILES: list[tuple[Run, str]] = [
    *((run_metrics, "metrics.json"), (run_headline, "headline.json")),
    *((run_timings, "timings.json"), (run_codecs, "codecs.json")),
    *((run_report, "report.html"), (run_search, "hits.parquet"), (run_search, "hits.jsonl")),
    (run_table, "methods.json"),
]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    (tmp_path / "inputs").mkdir()
    return tmp_path / "inputs"


@pytest.mark.parametrize("run", [*WITH_LIST, *OTHER_FOLDERS])
def test_a_folder_with_other_things_is_named_and_left_alone(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    names = [
        "thesis.txt",
        "vectors-clip.npy",
        "pictures-2024.parquet",
        ".notes.partial",
        "metrics.json",
    ]
    for name in names:
        (output / name).write_text("mine")
    if run is run_compress:
        write_reason_of_a_model_is_refused(output)
    with pytest.raises(
        (OutputError, StoreError, IndexFolderError), match=r"output: (holds|exists)"
    ):
        run(inputs, output)
    assert {path.name: path.read_text() for path in output.iterdir()} == dict.fromkeys(
        names, "mine"
    )
    assert not (tmp_path / "output.partial").exists()


def write_reason_of_a_model_is_refused(output: Path) -> None:
    with pytest.raises(
        FileExistsError, match=r"output: holds a store or other things \(\.notes\.partial"
    ):
        write_reason(output, "quecc", "why", "float32")


@pytest.mark.parametrize("run", WITH_LIST)
def test_unfinished_work_of_others_is_named_and_left_alone(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    if run is run_train_metrics:
        pytest.skip("DVCLive writes in place")
    (tmp_path / "output.partial").mkdir()
    (tmp_path / "output.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"output\.partial: is in the way"):
        run(inputs, tmp_path / "output")
    assert (tmp_path / "output.partial" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("run", [*WITH_LIST, run_index])
def test_a_second_run_into_a_folder_is_refused(run: Run, inputs: Path, tmp_path: Path) -> None:
    with (
        only_writer(tmp_path / "output"),
        pytest.raises(BusyError, match="output: another run is writing it"),
    ):
        run(inputs, tmp_path / "output")


@pytest.mark.parametrize("run", [*WITH_LIST, *OTHER_FOLDERS])
def test_a_file_in_the_place_of_a_folder_is_left_alone(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "output").write_text("mine")
    (tmp_path / "broken").symlink_to("nowhere")
    for name, said in (
        ("output", "is a file"),
        ("broken", "is a link to nowhere, which does not exist"),
    ):
        with pytest.raises(OutputError, match=f"{name}: {said}"):
            run(inputs, tmp_path / name)
    assert (tmp_path / "output").read_text() == "mine"


@pytest.mark.parametrize(("run", "name"), FILES)
@pytest.mark.parametrize(
    "text",
    [
        "mine",
        '{"mine": 1}',
        "PAR1",
        '{"codecs": ["h264"], "costs": 1, "method": "walk", "rows": [1]}',
    ],
)
def test_a_file_with_other_things_is_named_and_left_alone(
    run: Run, name: str, text: str, inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(
        (OutputError, SystemExit), match=f"{name}: exists, and is no earlier result"
    ):
        run(inputs, tmp_path / name)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize(("run", "name"), FILES[:-1])
def test_a_second_run_into_a_file_is_refused(
    run: Run, name: str, inputs: Path, tmp_path: Path
) -> None:
    said = f"{name}: another run is writing it"
    with only_writer(tmp_path / name), pytest.raises((BusyError, OutputError), match=said):
        run(inputs, tmp_path / name)


@pytest.mark.parametrize("name", ["answers.jsonl.rejects.jsonl", "answers.jsonl.manifest.json"])
def test_files_beside_the_answers_are_left_alone(name: str, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}\n')
    with pytest.raises(OutputError, match=f"{name}: exists, and is no earlier result"):
        run_answers(inputs, tmp_path / "answers.jsonl")
    assert (tmp_path / name).read_text() == '{"mine": 1}\n'


def test_answers_do_not_take_the_place_of_their_questions(inputs: Path) -> None:
    (inputs / "link.jsonl").symlink_to("questions.jsonl")
    for output in ("questions.jsonl", "../inputs/questions.jsonl", "link.jsonl"):
        with pytest.raises(OutputError, match="which this run needs"):
            run_answers(inputs, inputs / output)
    with pytest.raises(OutputError, match=r"lies in .*store"):
        run_answers(inputs, inputs / "store" / "answers.jsonl")


def test_hits_do_not_take_the_place_of_what_is_read(tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"text": "a dog"}\n')
    (tmp_path / "hard.jsonl").hardlink_to(queries)
    (tmp_path / "soft.jsonl").symlink_to(queries)
    (tmp_path / "facts.parquet").write_text("mine")
    read = {
        "queries": queries,
        "store": tmp_path / "store",
        "metadata": tmp_path / "facts.parquet",
        "where": "true",
    }
    for name in ("queries.jsonl", "hard.jsonl", "soft.jsonl", "facts.parquet", "store/hits.jsonl"):
        for more in ({}, {"index": tmp_path / "store"}):
            with pytest.raises(OutputError, match="which this run needs"):
                what_search_says(output=tmp_path / name, **read, **more)
    assert queries.read_text() == '{"text": "a dog"}\n'


def test_outputs_and_inputs_do_not_lie_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    params = load_params("curate", CurateParams, PARAMS)
    for output in ("raw", "raw/curated", "."):
        with pytest.raises(OutputError, match="which this run needs"):
            curate(params, tmp_path / "raw", tmp_path / output)
        with pytest.raises(OutputError, match="which this run needs"):
            run_compress(tmp_path / "raw", tmp_path / output)
    with pytest.raises(OutputError, match=r"holds .*metrics\.json, which this run needs"):
        run_metrics(tmp_path, tmp_path / "evaluation" / "metrics.json")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_next_run_replaces_what_the_last_one_wrote(tmp_path: Path) -> None:
    for method in ("quecc", "fastv"):
        write_reason(tmp_path / "store", method, "nothing is stored", "float32")
    for name in ("analysis", "again"):
        run_analyse(tmp_path, tmp_path / name)
    run_analyse(tmp_path, tmp_path / "again")
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "analysis").iterdir() if path.is_file()
    } == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir() if path.is_file()}
    assert (tmp_path / "again" / LIST).is_file()

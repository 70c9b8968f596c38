"""The stage `report` end to end: one page of what the other stages write about eight pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dvclive import Live

from components import schema
from components.compression.identity import read_config
from components.costs.inference_costs import MethodCosts
from components.evaluation import publication
from components.evaluation.asking import (
    ANSWER,
    CAPTION,
    COST,
    IMAGE,
    LENGTH,
    PAIR,
    SIZE,
    TEXT,
    TIME,
    Record,
)
from components.evaluation.question_set import PAIR_ID, read_question_set
from components.evaluation.systems import COMPRESSED, SYSTEMS
from components.inspection.inspection_files import write_analysis
from components.params import load_params
from components.reporting.inputs import Places
from components.store.not_stored import write_reason
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader
from flows.evaluate import score
from flows.report import ReportParams, report
from tests.components.reporting.analyses import analysis
from tests.components.reporting.pages import PageReader
from tests.components.store.stores import random_rows, write_store
from tests.flows.test_evaluate import (
    IMAGE_IDS,
    MISSING,
    compress,
    picture,
    write_models,
    write_tables,
)
from tests.flows.test_evaluate import PARAMS as EVALUATE

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>"
PARAMS = """
report:
  seed: 0
  pictures: {formats: [PNG], max_pixels: 10000, max_aspect_ratio: 4.0, max_side: 200, min_side: 8}
  max_thumbnail_side: 32
  pictures_with_tokens: 2
  examples_per_box: 3
  descriptions: 2
  queries: [a red circle, <b>bold</b>]
  drawn_queries: 2
  hits_per_query: 3
  num_threads: 1
"""
ARGUMENTS = (
    "curated",
    "curated/images/test",
    "store",
    "evaluation",
    "metrics.json",
    "codecs.json",
    "analysis",
    "methods.json",
    "seeds.json",
    "models/compressor",
    "models/tiny-llava",
    "training",
)


def write_evaluation(root: Path) -> None:
    """What `evaluate` writes: its own scores and files, of answers that are made up."""
    question_set, tokens = (
        read_question_set(root / "curated", "test"),
        StoreReader.open(root / "store"),
    )
    config = read_config(root / "models" / "compressor")
    rng = np.random.default_rng(0)
    records = [
        Record("uncompressed", SIZE, key, None, 1000.0) for key in ("language_model", "vision")
    ]
    records += [
        Record("uncompressed", LENGTH, image_id, None, 1000.0)
        for image_id in question_set.image_ids
    ]
    costs = MethodCosts(1000.0, 100.0, 10.0, 10.0, is_stored=True)
    records += [
        Record(COMPRESSED, COST, name, None, float(value))
        for name, value in costs._asdict().items()
    ]
    for system in SYSTEMS:
        for row in question_set.all_questions():
            text = row[schema.ANSWERS][0] if rng.random() < 0.5 else EVIL
            records.append(Record(system, ANSWER, row[schema.QUESTION_ID], text, 9, 2))
        records += [
            Record(system, CAPTION, image_id, f"{EVIL} of {image_id}")
            for image_id in question_set.captions
        ]
        records += [
            Record(system, PAIR, row[PAIR_ID], None, -1.0, -2.0) for row in question_set.all_pairs()
        ]
        records.append(Record(system, TIME, system, None, 1.0, 1))
    texts = question_set.texts(2) + question_set.query_texts(2)
    vectors = rng.normal(size=(len(texts), tokens.provenance.dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for text, vector in zip(texts, vectors, strict=True):
        records.append(Record(COMPRESSED, TEXT, text, embedding=vector.tolist()))
    images = zip(tokens.ids, tokens.embeddings(), strict=True)
    records += [
        Record(COMPRESSED, IMAGE, image_id, embedding=vector.tolist())
        for image_id, vector in images
    ]
    by_mean = EVALUATE.model_copy(update={"rankings": ("mean",)})
    results = score(by_mean, question_set, config, records)
    publication.write_folder(root / "evaluation", results)
    publication.write_json(root / "metrics.json", results["metrics"])
    scores = {"short_answer": 0.5, "image_to_text": 0.5, "text_to_image": 0.5}
    publication.write_json(
        root / "codecs.json", {"codecs": [{"codec": EVIL, "bytes_per_picture": 64, **scores}]}
    )


def write_curation(curated: Path) -> None:
    rejects = [
        {"sample_id": EVIL, "source": "captions", "reason": "bad_json", "detail": "line 1\u202e"}
    ]
    pq.write_table(pa.Table.from_pylist(rejects, schema.REJECTS), curated / "rejects.parquet")
    counts = {"rows_in": 3, "rows_kept": 2, "rejects": {"bad_json": 1}, "repaired": {}}
    (curated / "report.json").write_text(json.dumps({"captions": counts}))
    (curated / "expectations").mkdir()
    (curated / "expectations/result.json").write_text("{}")


def write_training(folder: Path) -> None:
    live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, monitor_system=False)
    for live.step in (10, 20):
        for name in (
            "train/autoregressive_loss",
            "validation/score",
            "validation/short_answer_accuracy",
        ):
            live.log_metric(name, 1 / live.step)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_tables(root / "curated")
    compress(write_models(root / "models"), root / "models", root / "store")
    write_evaluation(root)
    write_curation(root / "curated")
    write_training(root / "training")
    drawn = [{"image_id": image_id, "references": [EVIL]} for image_id in IMAGE_IDS[:2]]
    write_analysis(
        root / "analysis", analysis(EVIL) | {"pictures": drawn}, [picture(0), picture(1)]
    )
    (root / "params.yaml").write_text(PARAMS)
    return root


def write_page(root: Path, name: str, **places: Path) -> str:
    arguments = [places.get(argument, root / argument) for argument in ARGUMENTS]
    params = load_params("report", ReportParams, root / "params.yaml")
    report(params, Places(*arguments), root / name)
    return (root / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(world: Path) -> str:
    return write_page(world, "first.html")


def test_page_shows_pictures_questions_and_what_was_found(page: str) -> None:
    read = PageReader(page)
    text = " ".join(read.text.split())
    assert "4 vectors in the place of" in text
    for shown in (
        "what colour?",
        "a red circle",
        "<b>bold</b>",
        EVIL,
        "line 1\\u202e",
        "Autoregressive loss",
        "one object2 queries",
        "Short answers without some of the summary tokens",
    ):
        assert shown in text
    sources = {element.attributes["src"] for element in read.elements if element.tag == "img"}
    assert len(sources) >= 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_page_runs_nothing_and_names_no_path_of_this_machine(world: Path, page: str) -> None:
    assert "script" not in {element.tag for element in PageReader(page).elements}
    assert str(world) not in page
    assert str(ROOT) not in page


def test_picture_that_was_not_stored_counts_as_wrong_and_is_never_found(
    world: Path, page: str
) -> None:
    hits = [
        element.attributes.get("title")
        for element in PageReader(page).elements
        if element.tag == "img"
    ]
    assert set(hits) - {None} <= set(IMAGE_IDS)
    assert MISSING not in StoreReader.open(world / "store")


def test_same_inputs_give_the_same_bytes_in_another_process(world: Path, page: str) -> None:
    command = [sys.executable, "-m", "flows.report", *ARGUMENTS, "results/second.html"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    subprocess.run(command, cwd=world, env=environment, check=True, timeout=300)
    assert (world / "results/second.html").read_bytes() == page.encode()


def test_store_of_another_model_is_refused(world: Path) -> None:
    write_store(world / "foreign", [random_rows(IMAGE_IDS, seed=0)])
    with pytest.raises(StoreError, match="another model"):
        write_page(world, "third.html", store=world / "foreign")
    assert not (world / "third.html").exists()


def test_results_without_downsampled_pictures_have_the_full_page(
    world: Path, tmp_path: Path
) -> None:
    metrics = json.loads((world / "metrics.json").read_text())
    del metrics["downsampled"]
    for system in metrics.keys() & set(SYSTEMS):
        del metrics[system]["hard"]
    for column in metrics["costs"].values():
        column.pop("downsampled", None)
    publication.write_json(tmp_path / "metrics.json", metrics)

    # as an evaluation that did not ask it
    (tmp_path / "evaluation").mkdir()
    for name in publication.ROWS:
        lines = (world / f"evaluation/{name}.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["system"] != "downsampled"]
        (tmp_path / f"evaluation/{name}.jsonl").write_text("".join(kept))

    places = {name: tmp_path / name for name in ("evaluation", "metrics.json")}
    text = " ".join(PageReader(write_page(world, "older.html", **places)).text.split())
    assert "evaluate.references has no downsampled" in text
    assert "The same questions to 4 systems" in text
    assert "4 vectors in the place of" in text


def test_a_method_that_stores_nothing_has_a_short_page_with_the_reason(
    world: Path, tmp_path: Path
) -> None:
    write_reason(tmp_path, "quecc", f"made for each question {EVIL}", "float32")
    text = " ".join(PageReader(write_page(world, "short.html", **{"store": tmp_path})).text.split())
    assert "made for each question" in text
    assert "Short answers" in text
    assert "R@1, image to text" in text
    assert "P@1, two object" in text
    assert "operations per question" in text

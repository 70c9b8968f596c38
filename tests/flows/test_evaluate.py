"""Stage `evaluate` end to end: a random model, eight noisy pictures, one of them not stored."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components import schema
from components.compression.identity import provenance_of, read_config
from components.costs.inference_costs import MethodCosts, ModelSize
from components.evaluation.asking import (
    ANSWER,
    COST,
    LENGTH,
    SIZE,
    PromptParams,
    Record,
    embed_texts,
)
from components.evaluation.evaluation_settings import EvaluateParams
from components.evaluation.headline import headline_scores
from components.evaluation.intervals import BootstrapParams
from components.evaluation.question_set import read_question_set
from components.evaluation.recall import MEAN
from components.evaluation.systems import BLIND, COMPRESSED, SYSTEMS, check_downsampling
from components.methods.checkpoint import load_config, save_compressor
from components.methods.fwd2bot import DoubleForward
from components.model.chat import encode_prompt
from components.pictures import PictureLimits, encode_png, pixel_sha256
from components.search import query as search
from components.search.late_interaction import rerank
from components.store.shards import TokenRows
from components.store.store_reader import StoreReader
from flows.evaluate import cost_inputs, evaluate, score, with_possible_rankings
from flows.workers.evaluate_worker import EvaluationWorker
from tests.components.model.tiny import TEXTS, compressor, write_tiny_llava
from tests.components.store.stores import write_store

IMAGE_IDS = [f"picture {number}" for number in range(8)]
MISSING = IMAGE_IDS[5]
PARAMS = EvaluateParams(
    split="test",
    pictures=PictureLimits(
        formats=("PNG",), max_pixels=10_000, max_aspect_ratio=4.0, max_side=200, min_side=8
    ),
    prompts=PromptParams(
        questions_per_batch=8,
        max_answer_tokens=4,
        caption_prompt="what is in the picture?",
        max_caption_tokens=8,
        max_text_tokens=77,
    ),
    references=("uncompressed", "average_pooled", "downsampled", "blind"),
    captioned_pictures=6,
    captions_per_picture=2,
    rankings=("mean", "maxsim"),
    bootstrap=BootstrapParams(resamples=50, confidence=0.95, seed=0),
    pictures_per_task=3,
    texts_per_task=10,
    num_workers=2,
    cpus_per_worker=1,
    gpus_per_worker=0,
)
CAPTIONS = {
    image_id: [f"a {word} circle", f"the circle is {word}"]
    for image_id, word in zip(IMAGE_IDS, TEXTS, strict=False)
}
# the second is a caption as well
QUERIES = (
    ("one_object", "a circle", IMAGE_IDS),
    ("one_object", CAPTIONS[IMAGE_IDS[2]][0], [MISSING]),
    ("two_object", "a star and a dog", IMAGE_IDS[:2]),
)

TASK = pa.schema(
    [
        ("system", pa.string()),
        ("image_ids", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
    ]
)


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))


def question_rows() -> list[dict[str, Any]]:
    rows = []
    for image_id in IMAGE_IDS:
        asked = [
            ("short_answer", "colour", "what colour?", ["red"], None, None),
            ("short_answer", "count", "how many?", ["2"], None, None),
            ("existence", "random", "is there a star?", ["yes"], None, None),
            ("existence", "popular", "is there a square?", ["no"], None, None),
            ("relations", "left", "is it left?", ["yes"], None, f"{image_id} r"),
            ("relations", "left", "is it right?", ["no"], None, f"{image_id} r"),
            (
                "multiple_choice",
                "colour",
                "which? A. red B. blue",
                ["A"],
                ["red", "blue"],
                f"{image_id} m",
            ),
            (
                "multiple_choice",
                "colour",
                "which? A. blue B. red",
                ["B"],
                ["blue", "red"],
                f"{image_id} m",
            ),
            ("word_reading", "word", "what is written?", ["abc"], None, None),
            ("unanswerable", "colour", "what colour is the dog?", ["unanswerable"], None, None),
        ]
        for number, (benchmark, kind, text, answers, choices, group) in enumerate(asked):
            question = f"{image_id} q{number}"
            rows.append(
                dict(
                    zip(
                        schema.QUESTIONS.names,
                        (
                            question,
                            image_id,
                            "test",
                            benchmark,
                            kind,
                            text,
                            answers,
                            choices,
                            group,
                        ),
                        strict=True,
                    )
                )
            )
    return rows


def write_tables(curated: Path) -> None:
    pictures = [picture(number) for number in range(len(IMAGE_IDS))]
    images = [
        dict(
            zip(
                schema.IMAGES.names,
                (image_id, "test", encode_png(image), pixel_sha256(image), 48, 48),
                strict=True,
            )
        )
        for image_id, image in zip(IMAGE_IDS, pictures, strict=True)
    ]
    captions = [
        {"image_id": image_id, "split": "test", "captions": texts}
        for image_id, texts in CAPTIONS.items()
    ]
    pairs = [
        {
            "image_id": image_id,
            "split": "test",
            "subset": subset,
            "caption": CAPTIONS[image_id][0],
            "negative_caption": f"no {subset}",
        }
        for image_id in IMAGE_IDS
        for subset in ("replace_object", "swap_attribute")
    ]
    queries = [
        {"query_id": str(number), "split": "test", "kind": kind, "text": text, "image_ids": found}
        for number, (kind, text, found) in enumerate(QUERIES)
    ]
    for path, rows, table_schema in (
        ("images/test/part-00000.parquet", images, schema.IMAGES),
        ("questions/test.parquet", question_rows(), schema.QUESTIONS),
        ("captions/test.parquet", captions, schema.IMAGE_CAPTIONS),
        ("compositionality/test.parquet", pairs, schema.COMPOSITIONALITY),
        ("queries/test.parquet", queries, schema.QUERIES),
    ):
        (curated / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, table_schema), curated / path)


def write_models(models: Path) -> DoubleForward:
    model = compressor(write_tiny_llava(models / "tiny-llava"))
    save_compressor(model, models / "compressor", {})
    return model


@torch.inference_mode()
def compress(model: DoubleForward, models: Path, folder: Path) -> None:
    stored = [
        (image_id, picture(number))
        for number, image_id in enumerate(IMAGE_IDS)
        if image_id != MISSING
    ]
    read = model.backbone.prepare([image for _, image in stored])
    tokens = model.compress_images(model.backbone.encode_images(read)).numpy()
    sizes = np.full(len(stored), 48, np.int32)
    provenance = provenance_of(models / "compressor", "float16", "float32")
    write_store(
        folder, [TokenRows([image_id for image_id, _ in stored], sizes, sizes, tokens)], provenance
    )


class World:
    """Inputs and, after `run`, outputs below one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.curated, self.store = root, root / "curated", root / "store"
        write_tables(self.curated)
        self.model = write_models(root / "models")
        compress(self.model, root / "models", self.store)

    def run(self, name: str, params: EvaluateParams) -> Path:
        output = self.root / name
        files = [output / f"{name}.json" for name in ("metrics", "headline", "timings")]
        evaluate(
            params,
            self.curated,
            self.root / "models/compressor",
            self.store,
            output / "rows",
            *files,
        )
        return output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def output(world: World, local_ray: None) -> Path:
    return world.run("first", PARAMS)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "metrics.json").read_text())


def test_every_system_has_every_score_with_count_and_interval(output: Path) -> None:
    metrics = metrics_of(output)
    counts = {
        "short_answer": 16,
        "existence": 16,
        "relations": 16,
        "multiple_choice": 8,
        "word_reading": 8,
        "unanswerable": 8,
    }
    for system in SYSTEMS:
        for name, count in counts.items():
            score = metrics[system][name]
            assert set(score) == {"accuracy", "low", "high", "count"}
            assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
            assert score["count"] == count
        assert set(metrics[system]["short_answer_by_kind"]) == {"colour", "count"}
        assert set(metrics[system]["captioning"]) == {"cider", "bleu_4", "rouge_l"}
        assert {s["count"] for s in metrics[system]["compositionality"].values()} == {8}
    assert set(metrics["compressed"]["retrieval"]) == {"image_to_text", "text_to_image"}
    assert metrics["compressed"]["retrieval"]["text_to_image"]["count"] == 16
    assert "retrieval" not in metrics["blind"]


def test_searches_are_scored_from_stored_tokens_alone(world: World, output: Path) -> None:
    found = metrics_of(output)["compressed"]["partial_queries"]
    # all but the missing one of eight fit the first query, and nothing that is stored the second
    assert found["one_object"]["precision_at_1"] == 0.5
    assert found["one_object"]["precision_at_10"] == pytest.approx((0.7 + 0) / 2)
    assert found["one_object"]["count"] == 2
    assert found["two_object"]["precision_at_10"] == 0.2

    store, text = StoreReader.open(world.store), QUERIES[2][1]
    (record,) = embed_texts(COMPRESSED, world.model, [text], MEAN, PARAMS.prompts)
    best = store.ids[int(np.argmax(store.embeddings() @ np.array(record.embedding)))]
    assert found["two_object"]["precision_at_1"] == (best in QUERIES[2][2])
    assert all("partial_queries" not in metrics_of(output)[name] for name in SYSTEMS[1:])


def test_searches_by_maxsim_are_those_of_the_search(world: World, output: Path) -> None:
    """Every stored picture is ranked as `search --maxsim` would."""
    found, store = metrics_of(output)["compressed"], StoreReader.open(world.store)
    tokens = store.tokens(store.ids)

    def first(text: str) -> str:
        query = search.embed_texts(world.model, [text]).summary_tokens[0]
        return rerank(store.ids, tokens, query, 1)[0].image_id

    hits = [first(text) == image_id for image_id, texts in CAPTIONS.items() for text in texts]
    recalls = found["retrieval_maxsim"]["text_to_image"]
    assert (recalls["recall_at_1"], recalls["count"]) == (np.mean(hits), len(hits))
    partial = found["partial_queries_maxsim"]
    assert partial["two_object"]["precision_at_1"] == (first(QUERIES[2][1]) in QUERIES[2][2])
    assert partial["one_object"]["chance"] == found["partial_queries"]["one_object"]["chance"]


def test_pairs_by_maxsim_are_those_of_the_search(world: World, output: Path) -> None:
    store, rows = StoreReader.open(world.store), read_lines(output / "rows/compositionality.jsonl")
    right = defaultdict(list)
    for row in rows:
        if row["system"] == "compressed" and row["image_id"] in store.ids:
            texts = [row["caption"], row["negative_caption"]]
            tokens = store.tokens([row["image_id"]])
            queries = search.embed_texts(world.model, texts).summary_tokens
            true, false = [rerank(["it"], tokens, query, 1)[0].score for query in queries]
            right[row["subset"]].append(true > false)
    found = metrics_of(output)["compressed"]["compositionality_maxsim"]
    for subset, scores in right.items():
        assert found[subset]["accuracy"] == sum(scores) / found[subset]["count"]


def test_rankings_that_cannot_be_are_left_out(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"rankings \['maxsim'\] lack mean"):
        EvaluateParams.model_validate(PARAMS.model_dump() | {"rankings": ("maxsim",)})
    config = read_config(world.root / "models/compressor")
    assert with_possible_rankings(PARAMS, config) == PARAMS
    other = config.model_copy(update={"method": config.method.model_copy(update={"name": "stf"})})
    assert with_possible_rankings(PARAMS, other).rankings == ("mean",)
    assert "no MaxSim: stf makes no summary tokens of a text" in capsys.readouterr().out


def test_the_headline_is_flat_and_out_of_the_metrics(output: Path) -> None:
    headline, metrics = json.loads((output / "headline.json").read_text()), metrics_of(output)
    assert headline == headline_scores(metrics)
    assert headline["one_object_p1"] == 0.5
    assert "base_short_answers" in headline
    assert all(isinstance(value, float) for value in headline.values())


def test_every_answer_is_written_in_order_and_explains_the_score(output: Path) -> None:
    rows = read_lines(output / "rows/answers.jsonl")
    assert [(row["system"], row["question_id"]) for row in rows] == sorted(
        (system, row["question_id"]) for system in SYSTEMS for row in question_rows()
    )
    for system in SYSTEMS:
        scores = [
            row["score"]
            for row in rows
            if row["system"] == system and row["benchmark"] == "existence"
        ]
        assert metrics_of(output)[system]["existence"]["accuracy"] == pytest.approx(
            np.mean(scores), abs=1e-6
        )


def test_the_picture_that_is_not_stored_is_wrong_and_counted(output: Path) -> None:
    metrics = metrics_of(output)
    assert metrics["compressed"]["missing"] == {"questions": 10, "captions": 1, "pairs": 2}
    assert metrics["uncompressed"]["missing"] == {"questions": 0, "captions": 0, "pairs": 0}
    rows = [row for row in read_lines(output / "rows/answers.jsonl") if row["image_id"] == MISSING]
    assert {(row["answer"], row["score"]) for row in rows if row["system"] == "compressed"} == {
        (None, 0.0)
    }
    assert all(row["answer"] is not None for row in rows if row["system"] != "compressed")


def test_answers_are_those_of_the_stored_tokens_and_of_plain_transformers(
    world: World, output: Path
) -> None:
    told = {
        (row["system"], row["question_id"]): row["answer"]
        for row in read_lines(output / "rows/answers.jsonl")
    }
    store, backbone, questions = (
        StoreReader.open(world.store),
        world.model.backbone,
        question_rows(),
    )
    for row in questions[::7]:
        if row["image_id"] == MISSING:
            continue
        prompt = encode_prompt(backbone.chat, row["question"], 4)
        tokens = torch.from_numpy(store.tokens([row["image_id"]]))
        new = world.model.answer(tokens, [prompt], 4)[0]
        assert (
            told["compressed", row["question_id"]]
            == backbone.tokenizer.decode(new, skip_special_tokens=True).strip()
        )
        prompt = encode_prompt(backbone.chat, row["question"], backbone.num_image_tokens)
        read = backbone.prepare([picture(IMAGE_IDS.index(row["image_id"]))])
        plain = backbone.vlm.generate(
            input_ids=torch.tensor([prompt]), **read.tensors, max_new_tokens=4, do_sample=False
        )[0, len(prompt) :]
        assert (
            told["uncompressed", row["question_id"]]
            == backbone.tokenizer.decode(plain, skip_special_tokens=True).strip()
        )


def test_downsampled_answers_are_those_of_the_base_from_a_smaller_picture(
    world: World, output: Path
) -> None:
    told = {
        row["question_id"]: row["answer"]
        for row in read_lines(output / "rows/answers.jsonl")
        if row["system"] == "downsampled"
    }
    backbone, processor = world.model.backbone, world.model.backbone.image_processor
    for row in question_rows()[::7]:
        small = picture(IMAGE_IDS.index(row["image_id"])).resize((32, 32), Image.LANCZOS)
        pixels = processor(small, do_resize=False, do_center_crop=False, return_tensors="pt")
        seen = backbone.vlm.model.get_image_features(**pixels, interpolate_pos_encoding=True)
        prompt = torch.tensor([encode_prompt(backbone.chat, row["question"], 4)])
        plain = backbone.vlm.generate(
            inputs_embeds=backbone.embed_chat(prompt, seen.pooler_output[0]),
            max_new_tokens=4,
            do_sample=False,
        )
        expected = backbone.tokenizer.decode(plain[0], skip_special_tokens=True).strip()
        assert told[row["question_id"]] == expected
    assert metrics_of(output)["costs"]["visual_tokens"]["downsampled"] == 4


def test_the_hard_subset_is_what_downsampling_gets_wrong(output: Path) -> None:
    metrics, rows = metrics_of(output), read_lines(output / "rows/answers.jsonl")

    # groups that the downsampled picture does not pass, in the plainest way
    lost = set()
    for row in rows:
        if row["system"] == "downsampled" and row["score"] < 1:
            lost.add(row["group"] or row["question_id"])
    for system in SYSTEMS:
        for name in ("short_answer", "existence", "relations"):
            scores = [
                row["score"]
                for row in rows
                if (row["system"], row["benchmark"]) == (system, name)
                and (row["group"] or row["question_id"]) in lost
            ]
            found = metrics[system]["hard"][name]
            assert found["count"] == len(scores)
            assert found["accuracy"] == pytest.approx(np.mean(scores), abs=1e-6)
            assert 0 <= found["low"] <= found["accuracy"] <= found["high"] <= 1
        groups = metrics[system]["hard"]["multiple_choice"]["count"]
        assert groups == len({group for group in lost if group.endswith(" m")})
        assert "captioning" not in metrics[system]["hard"]
    assert metrics["downsampled"]["hard"]["short_answer"]["accuracy"] == 0
    assert metrics["downsampled"]["hard"]["relations_pairs"]["accuracy"] == 0


def test_without_downsampling_there_is_no_hard_subset(world: World) -> None:
    few = PARAMS.model_copy(update={"references": ("blind",), "captioned_pictures": 0})
    question_set = read_question_set(world.curated, "test")._replace(captions={}, pairs={})
    sizes = [Record(BLIND, SIZE, field, None, 10) for field in ModelSize._fields]
    costs = [Record(COMPRESSED, COST, field, None, 1) for field in MethodCosts._fields]
    length = Record(COMPRESSED, LENGTH, IMAGE_IDS[0], None, 9)
    config = load_config(world.root / "models/compressor")
    metrics = score(few, question_set, config, [*sizes, *costs, length])["metrics"]
    assert metrics.keys() == {COMPRESSED, BLIND, "costs", "method"}
    assert "hard" not in metrics[COMPRESSED]


def test_more_tokens_than_the_base_has_stop_the_stage_at_its_start(
    world: World, tmp_path: Path
) -> None:
    base = world.root / "models/tiny-llava"
    check_downsampling(str(base), None, 9)
    with pytest.raises(ValueError, match=r"evaluate.references: downsampled: .* 10 would be more"):
        check_downsampling(str(base), None, 10)


def test_another_number_of_workers_gives_the_same_bytes(world: World, output: Path) -> None:
    again = world.run("second", PARAMS.model_copy(update={"num_workers": 1}))
    files = sorted(path.relative_to(output) for path in output.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        if file.name != "timings.json":
            assert (output / file).read_bytes() == (again / file).read_bytes(), file


def test_plots_and_timings_are_written(output: Path) -> None:
    for name, columns in {
        "accuracy_by_kind": ["label", "system", "kind", "accuracy", "low", "high", "count"],
        "accuracy_against_tokens": [
            "system",
            "visual_tokens",
            "benchmark",
            "accuracy",
            "low",
            "high",
            "count",
        ],
        "recall": ["k", "image_to_text", "text_to_image"],
    }.items():
        with (output / f"rows/plots/{name}.csv").open(newline="") as stream:
            rows = list(csv.reader(stream))
        assert rows[0] == columns
        assert len(rows) >= 4
    timings = json.loads((output / "timings.json").read_text())
    assert set(timings) == {"asking", "scoring", *SYSTEMS}


def test_a_store_of_other_pictures_is_refused(world: World, tmp_path: Path) -> None:
    rows = TokenRows(
        ["someone else's"],
        np.ones(1, np.int32),
        np.ones(1, np.int32),
        np.ones((1, 4, 32), np.float32),
    )
    other = write_store(
        tmp_path / "store",
        [rows],
        provenance_of(world.root / "models/compressor", "float16", "float32"),
    )
    with pytest.raises(ValueError, match="none of the 8 pictures"):
        evaluate(
            PARAMS,
            world.curated,
            world.root / "models/compressor",
            other,
            *(tmp_path / name for name in "abcd"),
        )


def test_average_pooling_keeps_as_many_tokens_as_a_store_of_the_first_ones(
    world: World, tmp_path: Path
) -> None:
    compressor, whole = world.root / "models/compressor", StoreReader.open(world.store)
    sizes = np.full(len(whole.ids), 48, np.int32)
    first = TokenRows(whole.ids, sizes, sizes, whole.tokens(whole.ids)[:, :1])
    write_store(tmp_path / "first", [first], provenance_of(compressor, "float16", "float32", 1))
    worker = EvaluationWorker(
        PARAMS.model_dump(), str(world.curated), str(compressor), str(tmp_path / "first")
    )
    task = {"system": "average_pooled", "image_ids": IMAGE_IDS[:2], "texts": []}
    records = worker(pa.Table.from_pylist([task], TASK)).to_pylist()
    assert [row["first"] for row in records if row["record"] == LENGTH] == [1, 1]


@pytest.mark.parametrize("systems", [(COMPRESSED,), (COMPRESSED, BLIND)])
def test_a_question_costs_a_method_the_same_whoever_is_asked_beside_it(
    world: World, systems: tuple[str, ...]
) -> None:
    sizes = [Record(COMPRESSED, SIZE, field, None, 10) for field in ModelSize._fields]
    costs = [Record(COMPRESSED, COST, field, None, 1) for field in MethodCosts._fields]
    answers = [
        Record(system, ANSWER, "q", "red", length, 1)
        for system, length in ((COMPRESSED, 16), (BLIND, 14))
    ]
    records = [*sizes, *costs, *answers, Record(COMPRESSED, LENGTH, "p", None, 36)]
    _, load, _ = cost_inputs(systems, load_config(world.root / "models/compressor"), records)
    assert load.question_tokens == {
        system: {COMPRESSED: 16, BLIND: 14}[system] for system in systems
    }

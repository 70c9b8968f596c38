"""Stage `inspect` on a small world: its numbers against the compressor, and chats made by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from components import schema
from components.evaluation.intervals import BootstrapParams, mean_estimate
from components.evaluation.scoring import answer_score
from components.inspection.inspection_files import numbers
from components.inspection.norms import adapter_norms
from components.model.adapters import GENERATION
from components.model.chat import encode_prompt
from components.store.not_stored import write_reason
from components.store.store_reader import StoreReader
from flows.inspect import PARTS, InspectParams, inspect, of_compressor, prepare
from tests.components.methods.building import built
from tests.components.model.tiny import COMPRESSOR, compressor
from tests.flows.test_evaluate import CAPTIONS, IMAGE_IDS, MISSING, World, question_rows, world  # noqa: F401
from tests.flows.test_evaluate import PARAMS as EVALUATE

PARAMS = InspectParams(
    seed=0,
    split="test",
    pictures=EVALUATE.pictures,
    drawn_pictures=2,
    scored_pictures=100,
    question=EVALUATE.prompts.caption_prompt,
    max_caption_tokens=8,
    max_answer_tokens=4,
    questions_per_batch=8,
    prefixes=(1, 3),
    group_size=3,
    bootstrap=BootstrapParams(resamples=50, confidence=0.95, seed=0),
    num_threads=1,
)
STORED = [image_id for image_id in IMAGE_IDS if image_id != MISSING]


def run(world: World, name: str, **changes: Any) -> Path:
    folder = world.root / name
    params = PARAMS.model_copy(update=changes)
    inspect(params, world.curated, world.root / "models/compressor", world.store, folder)
    return folder


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "inspection.json").read_text())


@pytest.fixture(scope="module")
def folder(world: World) -> Path:
    return run(world, "analysis")


def test_every_part_is_found_of_the_drawn_pictures(world: World, folder: Path) -> None:
    content = content_of(folder)
    assert {name: content[name]["reason"] for name in PARTS} == dict.fromkeys(PARTS)
    drawn = [row["image_id"] for row in content["pictures"]]
    assert len(drawn) == 2
    assert set(drawn) < set(STORED)
    assert [row["references"] for row in content["pictures"]] == [
        CAPTIONS[image_id] for image_id in drawn
    ]
    for name in ("query_attention", "answer_attention", "base_attention"):
        assert len(content[name]["found"]["pictures"]) == 2
    assert content["norms"]["found"] == adapter_norms(world.model.backbone.language_model.layers)
    assert [Image.open(path).size for path in sorted((folder / "pictures").iterdir())] == [
        (48, 48)
    ] * 2


def test_the_same_again_is_the_same_bytes_and_another_seed_other_pictures(
    world: World, folder: Path
) -> None:
    again, other = run(world, "again"), run(world, "other", seed=3)
    for path in sorted(folder.rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()
    assert content_of(other)["pictures"] != content_of(folder)["pictures"]


def said_from(world: World, image_id: str, question: str, kept: list[int], num_tokens: int) -> str:
    """Answer from some stored tokens by transformers' generate, on embeddings put together here."""
    model, backbone = world.model, world.model.backbone
    tokens = torch.from_numpy(StoreReader.open(world.store).tokens([image_id])[0, kept])
    prompt = encode_prompt(backbone.chat, question, len(kept))
    first = prompt.index(backbone.image_token_id)
    words = backbone.embed(torch.tensor([prompt]))[0]
    inputs = torch.cat([words[:first], tokens, words[first + len(kept) :]])[None]
    with torch.inference_mode(), model.adapters.use(GENERATION):
        new = backbone.vlm.generate(
            inputs_embeds=inputs, max_new_tokens=num_tokens, do_sample=False
        )[0]
    return backbone.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_captions_of_prefixes_are_those_of_chats_made_by_hand(world: World, folder: Path) -> None:
    content = content_of(folder)
    rows = content["prefixes"]["found"]
    assert [row["num_tokens"] for row in rows] == [1, 3, 4]
    for row in rows:
        for picture, caption in zip(content["pictures"], row["captions"], strict=True):
            kept = list(range(row["num_tokens"]))
            assert caption == said_from(world, picture["image_id"], PARAMS.question, kept, 8)
        assert {score["count"] for score in row["scores"].values()} == {len(STORED)}


@pytest.fixture(scope="module")
def asked(world: World) -> Path:
    """Write tables whose right answers are given from all tokens, or the last alone, in turns."""
    curated = world.root / "asked"
    shutil.copytree(world.curated, curated)
    rows = [
        row
        for row in question_rows()
        if row["benchmark"] == "short_answer" and row["image_id"] in STORED
    ]
    for number, row in enumerate(rows):
        row["answers"] = [
            said_from(world, row["image_id"], row["question"], [[0, 1, 2, 3], [3]][number % 2], 4)
        ]
    pq.write_table(pa.Table.from_pylist(rows, schema.QUESTIONS), curated / "questions/test.parquet")
    return curated


def test_answers_without_groups_are_those_of_chats_made_by_hand(world: World, asked: Path) -> None:
    inspect(PARAMS, asked, world.root / "models/compressor", world.store, world.root / "masked")
    found = content_of(world.root / "masked")["masks"]["found"]
    assert [row["tokens"] for row in found["groups"]] == [[0, 1, 2], [3]]
    rows = pq.read_table(asked / "questions/test.parquet").to_pylist()

    def scores(kept: list[int]) -> np.ndarray:
        said = [said_from(world, row["image_id"], row["question"], kept, 4) for row in rows]
        return np.array(
            [
                answer_score("short_answer", text, row["answers"], None)
                for text, row in zip(said, rows, strict=True)
            ]
        )

    whole, clusters = scores([0, 1, 2, 3]), [row["image_id"] for row in rows]
    assert 0 < whole.mean() < 1
    assert found["whole"]["accuracy"] == pytest.approx(whole.mean(), abs=1e-6)
    for group, kept in zip(found["groups"], ([3], [0, 1, 2]), strict=True):
        differences = scores(kept) - whole
        assert group["accuracy"]["accuracy"] == pytest.approx(scores(kept).mean(), abs=1e-6)
        assert group["difference"]["difference"] == pytest.approx(differences.mean(), abs=1e-6)
        expected = mean_estimate(differences, clusters, PARAMS.bootstrap)  # pairs stay together
        assert group["difference"]["low"] == pytest.approx(expected.low, abs=1e-6)
        assert group["difference"]["high"] == pytest.approx(expected.high, abs=1e-6)
    assert found["groups"][0]["difference"]["difference"] != 0


def test_attention_of_answers_is_that_on_the_stored_tokens(world: World, folder: Path) -> None:
    content = content_of(folder)
    image_id, maps = (
        content["pictures"][0]["image_id"],
        content["answer_attention"]["found"]["pictures"][0],
    )
    model, backbone = world.model, world.model.backbone
    tokens = torch.from_numpy(StoreReader.open(world.store).tokens([image_id]))
    prompt = encode_prompt(backbone.chat, PARAMS.question, 4)
    new = model.answer(tokens, [prompt], 8)[0]
    assert [word for word in maps["words"] if word] == [
        backbone.tokenizer.decode([token]) for token in new
    ]
    backbone.language_model.set_attn_implementation("eager")
    ids = torch.tensor([prompt + new])[:, : len(prompt) + len(maps["words"]) - 1]
    with torch.inference_mode(), model.adapters.use(GENERATION):
        read = backbone.language_model(
            inputs_embeds=backbone.embed_chat(ids, tokens), output_attentions=True
        )
    backbone.language_model.set_attn_implementation("sdpa")
    first = prompt.index(backbone.image_token_id)
    weights = torch.stack(read.attentions)[:, 0].mean(1)[:, len(prompt) - 1 :, first : first + 4]
    np.testing.assert_allclose(maps["steps"], numbers(weights.mean(0)), atol=3e-6)


def test_what_there_is_not_has_a_reason(world: World) -> None:
    content = content_of(run(world, "coarse", group_size=4, drawn_pictures=0, prefixes=()))
    assert content["masks"] == {
        "found": None,
        "reason": "without a group of 4 nothing is left of 4 summary tokens",
    }
    assert [row["captions"] for row in content["prefixes"]["found"]] == [[]]
    assert content["query_attention"]["found"]["pictures"] == []


def test_a_store_of_other_pictures_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"validation\.parquet is missing"):
        run(world, "validation", split="validation")
    assert not (world.root / "validation").exists()
    small = EVALUATE.pictures.model_copy(update={"max_side": 20})
    with pytest.raises(
        ValueError, match=r"picture 'picture \d' of .*; compare `pictures` in params\.yaml"
    ):
        run(world, "small", pictures=small)


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        (
            {"adapters": COMPRESSOR.adapters.model_copy(update={"sharing": "none"})},
            {"norms": "has no adapters"},
        ),
        (
            {
                "adapters": COMPRESSOR.adapters.model_copy(update={"sharing": "shared"}),
                "attention": "bidirectional",
            },
            {},
        ),
    ],
    ids=["trained-decoder", "shared-bidirectional"],
)
def test_other_kinds_of_compressors_have_what_they_can_have(
    world: World,
    changes: dict[str, Any],
    reasons: dict[str, str],
) -> None:
    model = compressor(
        world.root / "models/tiny-llava", params=COMPRESSOR.model_copy(update=changes)
    )
    found = of_compressor(
        prepare(PARAMS, world.curated, world.root / "models/compressor", world.store), model
    )
    assert {name for name, row in found.items() if row["reason"] is not None} == set(reasons)
    for name, reason in reasons.items():
        assert reason in found[name]["reason"]
        assert found[name]["found"] is None


def test_methods_without_queries_or_without_a_store_say_so(world: World, tmp_path: Path) -> None:
    subject = prepare(PARAMS, world.curated, world.root / "models/compressor", world.store)
    found = of_compressor(subject, built(world.root / "models/tiny-llava", "average_pooling"))
    assert {name for name, row in found.items() if row["reason"] is not None} == {"query_attention"}
    write_reason(tmp_path / "store", "quecc", "made for each question", "float32")
    inspect(
        PARAMS,
        world.curated,
        world.root / "models/compressor",
        tmp_path / "store",
        tmp_path / "analysis",
    )
    content = json.loads((tmp_path / "analysis/inspection.json").read_text())
    assert all(
        content[name] == {"found": None, "reason": "made for each question"} for name in PARTS
    )

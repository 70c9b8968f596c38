"""The stage from raw files to curated tables, on a small demo world with all its planted faults."""

import filecmp
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from components import schema
from components.curation.written_tables import facts_path
from components.drawn_world import file_formats as formats
from components.drawn_world.broken import broken_caption_members, broken_instruct_rows
from components.files.locks import BusyError
from components.params import load_params
from components.pictures import pixel_sha256
from flows.curate import CurateParams, curate, open_staging, remove_staging

COMMITTED = load_params("curate", CurateParams, Path(__file__).parents[2] / "params.yaml")
# Small pieces, so that there are several; and one in three rows of this world is broken.
PARAMS = COMMITTED.model_copy(
    update={
        "rows_per_task": 16,
        "rows_per_shard": 10,
        "validation_fraction": 0.3,
        "max_reject_fraction": 0.5,
        "max_answer_fraction": 0.5,
    }
)
NUM_PICTURES = 24


def picture(seed: int) -> bytes:
    """Soft blobs of colour, unlike every other picture."""
    tiles = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return formats.jpeg_bytes(Image.fromarray(tiles).resize((96, 96), Image.Resampling.BICUBIC))


def write_instruct(folder: Path) -> list:
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for index in range(NUM_PICTURES):
        (folder / f"pictures/{index}.jpg").write_bytes(picture(index))
        prompt = COMMITTED.candidates.caption_prompts[0] if index % 2 else "what is this?"
        turns = [
            {"from": "human", "value": f"<image>\n{prompt}"},
            {"from": "gpt", "value": f"tiles {index}"},
        ]
        # an id may be a number
        rows.append({"id": index, "image": f"pictures/{index}.jpg", "conversations": turns})
    rows.append(
        {
            "id": "text",
            "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
        }
    )
    leaked = {
        "id": "leaked",
        "image": "pictures/leaked.jpg",
        "conversations": rows[0]["conversations"],
    }
    (folder / "pictures/leaked.jpg").write_bytes(picture(300))  # a test picture
    broken, faults = broken_instruct_rows(folder / "pictures", rows, seed=0)
    (folder / "rows.json").write_text(json.dumps([*rows, leaked, *broken]))
    return faults


def write_captions(folder: Path) -> list:
    folder.mkdir()
    pairs = [
        (f"{index:03d}", picture(100 + index), f"tiles {index}") for index in range(NUM_PICTURES)
    ]
    broken, faults = broken_caption_members(pairs, seed=0)
    members = [member for pair in pairs for member in formats.caption_members(*pair)]
    formats.write_tar(folder / "a.tar", members[: len(members) // 2])
    formats.write_tar(folder / "b.tar", members[len(members) // 2 :] + broken)
    return faults


def write_evaluation(folder: Path, first_picture: int) -> None:
    (folder / "pictures").mkdir(parents=True)
    names = [f"{index}.jpg" for index in range(4)]
    for index, name in enumerate(names):
        (folder / "pictures" / name).write_bytes(picture(first_picture + index))
    (folder / "pictures/cut.jpg").write_bytes(picture(0)[:500])
    questions = [
        {
            "question_id": index,
            "image": f"pictures/{name}",
            "benchmark": "short_answer",
            "kind": "colour",
            "question": "which colour?",
            "answers": [("red", "blue")[index % 2]],
            "choices": None,
            "group": None,
        }
        for index, name in enumerate([*names, "cut.jpg"])
    ]
    formats.write_json_lines(folder / "questions.jsonl", questions)
    formats.write_json(
        folder / "captions.json", formats.coco_captions({name: ["tiles"] * 5 for name in names})
    )
    pair = {"filename": names[0], "caption": "red tiles", "negative_caption": "blue tiles"}
    formats.write_json(folder / "compositionality.json", {"replace_attribute": {"0": pair}})


def write_queries(folder: Path) -> None:
    """Of one split alone: they may be missing. A picture that is cut fits one of them."""
    queries = [formats.beir_query(name, f"{name} tiles", "colour") for name in ("red", "blue")]
    formats.write_json_lines(folder / "queries.jsonl", queries)
    fitting = {"red": ["pictures/2.jpg", "pictures/0.jpg"], "blue": ["1.jpg", "cut.jpg"]}
    formats.write_qrels(folder / "qrels.tsv", fitting)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("world") / "raw"
    faults = write_instruct(raw / "instruct") + write_captions(raw / "captions")
    write_evaluation(raw / "evaluation/validation", 200)
    write_evaluation(raw / "evaluation/test", 300)
    write_queries(raw / "evaluation/test")
    (raw / "broken.json").write_text(json.dumps([vars(fault) for fault in faults]))
    return raw


@pytest.fixture(scope="module")
def curated(raw: Path, local_ray: None) -> Path:
    curate(PARAMS, raw, raw.parent / "curated")
    return raw.parent / "curated"


def samples(curated: Path) -> list[dict]:
    return ds.dataset(curated / "samples", format="parquet").to_table().to_pylist()


def test_curate_gives_every_planted_fault_its_expected_end(raw: Path, curated: Path) -> None:
    rejects = {
        (row["sample_id"], row["reason"])
        for row in pq.read_table(curated / "rejects.parquet").to_pylist()
    }
    kept = {row["sample_id"] for row in samples(curated)}
    faults = json.loads((raw / "broken.json").read_text())
    for fault in faults:
        name = f"{fault['source']}/{fault['id']}"
        ended = (
            name in kept
            if fault["expected"] == "repaired"
            else (name, fault["expected"]) in rejects
        )
        assert ended, fault
    planned = {(f"{f['source']}/{f['id']}", f["expected"]) for f in faults}
    assert rejects - planned == {
        ("instruct/leaked", "leaked_from_evaluation"),
        ("cut.jpg", "truncated"),
        ("4", "picture_rejected"),
        ("qrels.tsv:4", "picture_rejected"),
    }


def test_curate_accounts_for_every_row(curated: Path) -> None:
    report = json.loads((curated / "report.json").read_text())
    for source, counts in report.items():
        assert counts["rows_in"] == counts["rows_kept"] + sum(counts["rejects"].values()), source
    rows = samples(curated)
    for source in ("instruct", "captions"):
        assert report[source]["rows_kept"] == sum(row["source"] == source for row in rows)
    assert set(report["instruct"]["repaired"]) == {
        *("16_bit", "alpha", "cmyk", "control_characters", "exif_rotated", "first_frame"),
        *("id_made_unique", "wrong_extension"),
    }
    num_rejects = sum(sum(counts["rejects"].values()) for counts in report.values())
    assert num_rejects == pq.read_metadata(curated / "rejects.parquet").num_rows


def test_curate_writes_the_tables_of_the_schema(curated: Path) -> None:
    schemas = {
        "samples/train/part-00000.parquet": schema.SAMPLES,
        "samples/validation/part-00000.parquet": schema.SAMPLES,
        "images/test/part-00000.parquet": schema.IMAGES,
        "questions/test.parquet": schema.QUESTIONS,
        "captions/validation.parquet": schema.IMAGE_CAPTIONS,
        "compositionality/test.parquet": schema.COMPOSITIONALITY,
        "queries/test.parquet": schema.QUERIES,
        "queries/validation.parquet": schema.QUERIES,
        "rejects.parquet": schema.REJECTS,
    }
    for name, expected in schemas.items():
        assert pq.read_schema(curated / name).equals(expected), name
    assert pq.read_table(curated / "images/test")["image_id"].to_pylist() == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "3.jpg",
    ]
    assert (
        pq.read_table(curated / "captions/test.parquet")["captions"].to_pylist()
        == [["tiles"] * 5] * 4
    )
    queries = pq.read_table(curated / "queries/test.parquet").to_pylist()
    assert {row["query_id"]: row["image_ids"] for row in queries} == {
        "red": ["0.jpg", "2.jpg"],
        "blue": ["1.jpg"],
    }


def test_report_says_of_each_split_whether_it_has_queries(curated: Path) -> None:
    report = json.loads((curated / "report.json").read_text())
    assert report["evaluation/test/queries"]["rows_kept"] == 2
    assert report["evaluation/validation/queries"]["rows_in"] == 0


def test_curate_keeps_pictures_and_text_as_they_were(raw: Path, curated: Path) -> None:
    by_id = {row["sample_id"]: row for row in samples(curated)}
    row = by_id["instruct/3"]
    original = Image.open(raw / "instruct/pictures/3.jpg").convert("RGB")
    decoded = Image.open(io.BytesIO(row["image"]))
    assert decoded.format == "PNG"
    assert decoded.tobytes() == original.tobytes()
    assert row["image_sha256"] == pixel_sha256(original)
    assert row["conversation"][1] == {"role": "assistant", "content": "tiles 3"}
    assert (row["caption"], by_id["instruct/2"]["caption"]) == ("tiles 3", None)
    assert (by_id["captions/003"]["caption"], by_id["captions/003"]["conversation"]) == (
        "tiles 3",
        [],
    )
    assert by_id["instruct/text"]["image"] is None


def test_curate_puts_no_picture_into_two_splits(curated: Path) -> None:
    seen: dict[str, set[str]] = {}
    for row in samples(curated):
        seen.setdefault(row["image_sha256"] or row["sample_id"], set()).add(row["split"])
    assert {len(splits) for splits in seen.values()} == {1}
    assert set.union(*seen.values()) == {"train", "validation"}


def test_curate_writes_results_without_paths_of_this_machine(raw: Path, curated: Path) -> None:
    result = json.loads((curated / "expectations/result.json").read_text())
    assert all(table["success"] for table in result.values())
    assert (curated / "expectations/data_docs/index.html").exists()
    texts = [path for path in curated.rglob("*") if path.suffix in (".json", ".html")]
    assert not [path for path in texts if str(raw.parent) in path.read_text()]


@pytest.mark.slow
def test_curate_goes_on_where_it_was_killed_and_ends_with_the_same_bytes(
    raw: Path, curated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other pieces and another number of workers than the run that nobody disturbed."""
    changes = {"rows_per_task": 5, "num_workers": 1}
    write_params(tmp_path, changes)
    command = [sys.executable, "-m", "flows.curate", str(raw), "output/curated"]
    running = {"cwd": tmp_path, "env": environment(), "stderr": subprocess.PIPE}
    with subprocess.Popen(command, start_new_session=True, **running) as first:
        while len(list(tmp_path.glob("output/curated.staging/*/facts/task-*"))) < 3:
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)
    curate(PARAMS.model_copy(update=changes), raw, tmp_path / "output/curated")
    assert re.search(r"\d+ of \d+ pieces were checked before", capsys.readouterr().out)
    assert_same_files(curated, tmp_path / "output/curated")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["curated"]


def test_the_staging_of_other_runs_is_kept_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "curated.staging"

    def be_killed() -> None:
        with open_staging(place, "first") as staging:
            facts_path(staging, 0).parent.mkdir()
            facts_path(staging, 0).touch()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        be_killed()
    with open_staging(place, "second") as second:
        assert f"{place / 'first'}: 1 pieces checked" in capsys.readouterr().err
        with (
            pytest.raises(BusyError, match="another run is at work"),
            open_staging(place, "second"),
        ):
            pass
        remove_staging(second)  # of a run that is at work
        assert second.exists()
    remove_staging(second)
    assert not second.exists()
    with open_staging(place, "first") as staging:
        assert facts_path(staging, 0).exists()
    remove_staging(staging)
    assert not place.exists()


@pytest.mark.slow
def test_curate_rejects_a_picture_that_kills_the_decoder(
    raw: Path, curated: Path, tmp_path: Path
) -> None:
    other = tmp_path / "raw"
    shutil.copytree(raw, other)
    Image.new("RGB", (32, 33)).save(other / "instruct/pictures/5.jpg")
    write_params(tmp_path, {})
    (tmp_path / "sitecustomize.py").write_text(KILLING_DECODER)
    command = [sys.executable, "-m", "flows.curate", str(other), "output/curated"]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment(tmp_path))
    rejects = pq.read_table(tmp_path / "output/curated/rejects.parquet").to_pylist()
    killers = [row["sample_id"] for row in rejects if row["reason"] == "kills_decoder"]
    assert killers == ["instruct/5"]
    known = {row["sample_id"] for row in pq.read_table(curated / "rejects.parquet").to_pylist()}
    assert {row["sample_id"] for row in rejects} - {"instruct/5"} <= known


# Pillow, with a decoder that does not survive pictures of one size.
KILLING_DECODER = """
import os
from PIL import ImageFile
load = ImageFile.ImageFile.load
ImageFile.ImageFile.load = lambda image: os.abort() if image.size == (32, 33) else load(image)
"""


def write_params(folder: Path, changes: dict[str, int]) -> None:
    """The committed params with those of these tests."""
    params = YAML(typ="safe").load((Path(__file__).parents[2] / "params.yaml").read_text())
    params["curate"] = PARAMS.model_copy(update=changes).model_dump(mode="json")
    (folder / "params.yaml").write_text(json.dumps(params))


def environment(*folders: Path) -> dict[str, str]:
    """Of a stage that is started from another folder."""
    path = os.pathsep.join(map(str, [*folders, Path(__file__).parents[2]]))
    return {**os.environ, "PYTHONPATH": path, "DVC_STAGE": ""}


def assert_same_files(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    _, different, errors = filecmp.cmpfiles(one, other, files, shallow=False)
    assert (different, errors) == ([], [])


def test_curate_fails_when_a_source_loses_too_much(
    raw: Path, curated: Path, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"max_reject_fraction": 0.1})
    with pytest.raises(ValueError, match=r"instruct: \d+ of \d+ rows rejected"):
        curate(params, raw, tmp_path / "curated")
    assert not (tmp_path / "curated").exists()


@pytest.mark.slow
def test_curate_fails_when_a_critical_expectation_does(
    raw: Path, curated: Path, tmp_path: Path
) -> None:
    params = PARAMS.model_copy(update={"max_answer_fraction": 0.4})
    with pytest.raises(
        ValueError, match=r"answers.fraction: no answer is so common .*: 4 of 4 rows do not"
    ):
        curate(params, raw, tmp_path / "curated")
    assert not (tmp_path / "curated").exists()


def test_curate_without_a_source_says_what_is_missing(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw / "instruct", tmp_path / "raw/instruct")
    with pytest.raises(ValueError, match=r"captions/\*\.tar: no such file"):
        curate(PARAMS, tmp_path / "raw", tmp_path / "curated")

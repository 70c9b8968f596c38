"""The flow on folders and Parquet as users have them, then `search` and `answer` on what it wrote;

killed, it goes on. The first store is made by Ray's workers, most others in this process.
"""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from components.files.row_watch import MAX_ATTEMPTS
from components.search.batches import Query
from components.search.corpus import Wanted, search_like
from components.store import unfinished_store as work_module
from components.store.provenance import StoreError
from components.store.rejects import read_rejects
from components.store.store_reader import StoreReader, UnknownImageError
from flows.answer import answer
from flows.compress import compress
from flows.search import open_corpus, search_queries
from flows.workers import compress_worker
from flows.workers.compress_worker import CompressParams, count_start
from tests.components.compression.models import LIMITS, write_models
from tests.flows.in_this_process import finish_shards, in_this_process  # noqa: F401

PARAMS = CompressParams(
    num_workers=2,
    cpus_per_worker=1,
    gpus_per_worker=0,
    decoders_per_worker=1,
    dtype="float32",
    num_summary_tokens=None,
    codec="float16",
    batch_size=2,
    rows_per_shard=3,
    rows_per_row_group=2,
    max_picture_bytes=50_000_000,
    max_restarts=3,
    max_reject_fraction=0.5,
    allowed_roots=(),
    picture_suffixes=(".jpg", ".png", ".gif", ".tif", ".webp"),
    pictures=LIMITS,
)
ROOT = Path(__file__).parents[2]
# In every process that decodes: it ends at a picture of 13 pixels' width, as a fault in C
# code does.
KILLING_DECODER = """
import os
from PIL import ImageFile
load = ImageFile.ImageFile.load
def deadly(picture):
    if picture.size[0] == 13:
        os.abort()
    return load(picture)
ImageFile.ImageFile.load = deadly
"""


@pytest.fixture(scope="module")
def compressor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write photographs of many sizes and formats, a broken and a too large one, other files."""
    root = tmp_path_factory.mktemp("photos")
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(root / f"{name}.jpg")
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (90, 140, 3), dtype=np.uint8))
    noise.convert("CMYK").save(root / "cmyk.jpg")
    noise.convert("P").save(root / "palette.gif")
    noise.convert("LA").save(root / "grey alpha.png")
    noise.resize((3000, 2000)).save(root / "huge.webp", quality=1)
    Image.new("I;16", (40, 40), 30000).save(root / "deep.tif")
    (root / "holiday").mkdir()
    noise.resize((1, 1)).save(root / "holiday" / "dot.png")
    (root / "holiday" / "cut.jpg").write_bytes((root / "china.jpg").read_bytes()[:5000])
    Image.new("1", (9000, 600)).save(root / "wide.png")
    (root / "README.txt").write_text("mine")
    return root


@pytest.fixture(scope="module")
def store(
    photos: Path, compressor: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("stores") / "photos"
    compress(PARAMS, str(photos), compressor, output, None)
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_folder_every_picture_is_kept_or_rejected_with_a_reason(store: Path) -> None:
    reader = StoreReader.open(store)
    reader.verify()
    kept = [
        "china.jpg",
        "cmyk.jpg",
        "deep.tif",
        "flower.jpg",
        "grey alpha.png",
        "holiday/dot.png",
        "huge.webp",
        "palette.gif",
    ]
    assert reader.ids == kept
    rejects = json.loads((store / "_rejects.json").read_text())["rejects"]
    assert [(reject["image_id"], reject["reason"]) for reject in rejects] == [
        ("holiday/cut.jpg", "truncated"),
        ("wide.png", "too_large"),
    ]
    assert reader.manifest.corpus["skipped_files"] == {".txt": 1}
    assert [file.rows for file in reader.manifest.files] == [3, 2, 3, 0]
    assert not work_module.partial_folder(store).exists()


def test_finished_store_is_left_alone_and_another_is_refused(
    store: Path, photos: Path, compressor: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    compress(PARAMS, str(photos), compressor, store, None)
    assert {path.name: path.stat().st_mtime_ns for path in store.iterdir()} == before
    with pytest.raises(StoreError, match=r"holds another store.*batch_size"):
        compress(PARAMS.model_copy(update={"batch_size": 3}), str(photos), compressor, store, None)


def test_a_finished_store_is_compared_by_what_the_pictures_hold(
    store: Path, photos: Path, compressor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(photos, clone, copy_function=shutil.copyfile)  # other times and inodes
    picture = clone / "china.jpg"
    os.utime(picture, (2**32, 2**32))  # in the future
    compress(PARAMS, str(clone), compressor, store, None)
    assert "reads the pictures" in capsys.readouterr().out
    compress(PARAMS, str(clone), compressor, store, None)
    assert "reads the pictures" not in capsys.readouterr().out  # their state is noted
    content = picture.read_bytes()
    picture.write_bytes(content[:-2] + b"xx")
    os.utime(picture, (1, 1))  # as large, and older
    with pytest.raises(StoreError, match="pictures have changed since"):
        compress(PARAMS, str(clone), compressor, store, None)


def test_killed_run_goes_on_to_the_same_bytes_with_other_workers(
    store: Path,
    photos: Path,
    compressor: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill leaves some shards whole, one cut, one without its note, a file half written."""
    output = tmp_path / "photos"
    others = {"max_reject_fraction": 0.0, "num_workers": 1, "decoders_per_worker": 2}
    strict = PARAMS.model_copy(update=others)
    with monkeypatch.context() as patch:
        patch.setattr("flows.compress.run_workers", finish_shards)
        with pytest.raises(ValueError, match=r"2 of 10 pictures.*'too_large': 1"):
            compress(strict, str(photos), compressor, output, None)
    assert not output.exists()
    (partial,) = work_module.partial_folder(output).glob("*/")
    shards = partial / "shards"
    (shards / "part-00000.parquet").write_bytes((shards / "part-00000.parquet").read_bytes()[:-100])
    (partial / "done" / "part-00001.parquet.json").unlink()
    (partial / "aside" / "part-00003.parquet.1").write_bytes(b"half")
    untouched = (shards / "part-00002.parquet").stat().st_ino
    compress(
        strict.model_copy(update={"max_reject_fraction": 0.5}),
        str(photos),
        compressor,
        output,
        None,
    )
    assert contents(output) == contents(store)
    assert (output / "part-00002.parquet").stat().st_ino == untouched


@pytest.mark.usefixtures("in_this_process")
def test_parquet_corpus_gives_the_tokens_of_the_folder(
    store: Path, photos: Path, compressor: Path, tmp_path: Path
) -> None:
    names = ["huge.webp", "china.jpg", "deep.tif"]
    table = pa.table({"image_id": names, "image": [(photos / name).read_bytes() for name in names]})
    pq.write_table(table, tmp_path / "corpus.parquet")
    params = PARAMS.model_copy(update={"batch_size": None, "num_workers": 1})  # it is found
    found = compress(
        params, str(tmp_path / "corpus.parquet"), compressor, tmp_path / "out", None
    ).settings["batch_size"]
    assert compress(
        params, str(tmp_path / "corpus.parquet"), compressor, tmp_path / "out", None
    ).settings == (
        params.model_copy(
            update={"batch_size": found}
        ).settings()  # the finished store is left alone, whatever was found
    )
    ours, theirs = StoreReader.open(tmp_path / "out"), StoreReader.open(store)
    assert ours.ids == sorted(names)
    np.testing.assert_allclose(
        ours.tokens(names), theirs.tokens(names), atol=2e-3
    )  # other batches: the last bit of 2 bytes


def test_search_by_text_and_by_example(store: Path, compressor: Path) -> None:
    reader, corpus = StoreReader.open(store), open_corpus(store, None)
    hits = search_queries(
        corpus, compressor, None, [Query("1", "a red circle")], Wanted(100, None, None)
    )[0]
    assert sorted(hit.image_id for hit in hits) == reader.ids
    assert all(-1.001 <= hit.score <= 1.001 for hit in hits)
    similar = search_like(corpus, "china.jpg", Wanted(3, None, None))
    scores = reader.embeddings() @ reader.embeddings()[0]
    assert [hit.image_id for hit in similar] == [
        reader.ids[row] for row in np.argsort(-scores)[1:4]
    ]


@pytest.mark.usefixtures("in_this_process")
def test_a_store_of_fewer_tokens_holds_the_first_ones_and_opens_too(
    store: Path, photos: Path, compressor: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer"
    compress(
        PARAMS.model_copy(update={"num_summary_tokens": 2}), str(photos), compressor, fewer, None
    )
    whole, part = StoreReader.open(store), StoreReader.open(fewer)
    assert part.provenance.num_summary_tokens == 2
    ids = list(whole.ids)
    np.testing.assert_allclose(part.tokens(ids), whole.tokens(ids)[:, :2], rtol=2e-3, atol=2e-3)
    hits = search_queries(
        open_corpus(fewer, None),
        compressor,
        None,
        [Query("1", "a red circle")],
        Wanted(3, None, None),
    )
    assert len(hits[0]) == 3
    assert isinstance(answer(part, compressor, None, "china.jpg", "what colour?", 5), str)


def test_answer_needs_no_pictures(store: Path, photos: Path, compressor: Path) -> None:
    hidden = photos.rename(photos.with_name("gone"))
    try:
        texts = {
            answer(StoreReader.open(store), compressor, None, "china.jpg", "what colour?", 5)
            for _ in range(2)
        }
    finally:
        hidden.rename(photos)
    assert len(texts) == 1


def test_bad_questions_are_errors(store: Path, compressor: Path) -> None:
    reader = StoreReader.open(store)
    with pytest.raises(UnknownImageError, match=r"china\.png.*china\.jpg"):
        answer(reader, compressor, None, "china.png", "what?", 5)
    with pytest.raises(ValueError, match="empty"):
        answer(reader, compressor, None, "china.jpg", " ", 5)


def test_store_of_another_model_is_refused(store: Path, compressor: Path, tmp_path: Path) -> None:
    other = tmp_path / "compressor"
    shutil.copytree(compressor, other)
    shutil.copy(
        other / "generation" / "adapter_model.safetensors",
        other / "compression" / "adapter_model.safetensors",
    )
    with pytest.raises(StoreError, match=r"another model.*compression_adapter_sha256"):
        search_queries(
            open_corpus(store, None), other, None, [Query("1", "x")], Wanted(1, None, None)
        )


def test_other_base_model_is_refused_before_any_work(
    photos: Path, compressor: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(compressor.parent / "tiny-llava", base)
    weights = load_file(base / "model.safetensors")
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"SHA-256 of the weights is .* but .* needs"):
        compress(PARAMS, str(photos), compressor, tmp_path / "out", str(base))
    with pytest.raises(ValueError, match="holds no trained compressor"):
        compress(PARAMS, str(photos), tmp_path / "none", tmp_path / "out", None)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_tars_whose_pictures_kill_the_decoder_cost_only_those(
    compressor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tars; one picture ends every process that decodes it."""
    for tar, widths in {"a": (30, 31, 13, 32), "b": (33, 34)}.items():
        with tarfile.open(tmp_path / f"{tar}.tar", "w") as archive:
            for width in widths:
                Image.new("RGB", (width, 40)).save(tmp_path / f"{width}.png")
                archive.add(tmp_path / f"{width}.png", f"{width}.png")
    (tmp_path / "sitecustomize.py").write_text(KILLING_DECODER)
    environment = {"env_vars": {"PYTHONPATH": f"{tmp_path}:{ROOT}"}}
    deadly = ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS, runtime_env=environment)
    monkeypatch.setattr(
        compress_worker, "decode_shard", deadly(compress_worker.decode_shard._function)
    )
    monkeypatch.chdir(tmp_path)
    compress(PARAMS, "*.tar", compressor, Path("out"), None)
    store = StoreReader.open(tmp_path / "out")
    assert store.ids == ["a/30", "a/31", "a/32", "b/33", "b/34"]
    assert [reject[:2] for reject in read_rejects(tmp_path / "out/_rejects.json")] == [
        ("a/13", "kills_decoder")
    ]
    assert store.manifest.corpus["kind"] == "tars"
    assert store.manifest.rows_in == 6


def test_workers_that_die_too_often_end_the_run_with_a_reason(tmp_path: Path) -> None:
    for _ in range(2 * (1 + 3)):
        count_start(tmp_path, num_workers=2, max_restarts=3)
    with pytest.raises(ValueError, match=r"died more than .* 3 times each"):
        count_start(tmp_path, num_workers=2, max_restarts=3)

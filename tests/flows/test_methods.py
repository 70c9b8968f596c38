"""Every method through the stages behind training, or its reason why not.

Two methods go through Ray's workers as well, one that is stored and one that is not.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from components.methods.catalogue import build_method, method_class, method_names
from components.methods.checkpoint import save_compressor
from components.methods.method_settings import WITH_QUERIES, ChosenMethod
from components.search.batches import Query
from components.search.corpus import MaxSim, Wanted
from components.store.manifest import Manifest
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader
from flows.answer import answer
from flows.compress import compress
from flows.evaluate import evaluate
from flows.index import build
from flows.search import open_corpus, search_queries
from tests.components.methods.settings import SETTINGS, UNTRAINED
from tests.components.model.tiny import COMPRESSOR, load, write_tiny_llava
from tests.flows.in_this_process import in_this_process  # noqa: F401
from tests.flows.test_compress import PARAMS as COMPRESS_PARAMS
from tests.flows.test_evaluate import IMAGE_IDS, PARAMS, picture, write_tables

NAMES = sorted(set(method_names()) - set(WITH_QUERIES))
# few processes to start
COMPRESS = COMPRESS_PARAMS.model_copy(update={"num_workers": 1, "decoders_per_worker": 1})
EVALUATE = PARAMS.model_copy(
    update={
        "references": (),
        "rankings": ("mean",),  # the one that every method has
        "num_workers": 1,
        "pictures_per_task": 8,
    }
)


class World:
    """Pictures, questions and a base model."""

    def __init__(self, root: Path) -> None:
        self.root, self.curated, self.pictures = root, root / "curated", root / "pictures"
        write_tables(self.curated)
        self.pictures.mkdir()
        for number, image_id in enumerate(IMAGE_IDS):
            picture(number).save(self.pictures / f"{image_id}.png")
        write_tiny_llava(root / "tiny-llava")

    def compressor(self, name: str) -> Path:
        """An untrained method, saved."""
        if (self.root / name).exists():
            return self.root / name
        tuning = "none" if name in UNTRAINED else "trained"
        chosen = ChosenMethod(name=name, tuning=tuning, settings=SETTINGS[name])  # type: ignore[arg-type]
        folder = self.root / name
        save_compressor(
            build_method(load(self.root / "tiny-llava"), COMPRESSOR, chosen, seed=0), folder, {}
        )
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> World:
    return World(tmp_path_factory.mktemp("methods"))


def scores_of(world: World, compressor: Path, store: Path, output: Path) -> dict:
    files = [output / f"{name}.json" for name in ("metrics", "headline", "timings")]
    evaluate(EVALUATE, world.curated, compressor, store, output / "rows", *files)
    return json.loads(files[0].read_text())


def stored_by(world: World, compressor: Path, store: Path) -> Manifest | None:
    images, base = str(world.curated / "images/test"), str(world.root / "tiny-llava")
    return compress(COMPRESS, images, compressor, store, base)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("in_this_process")
def test_a_method_goes_through_all_stages(name: str, world: World, tmp_path: Path) -> None:
    compressor, store = world.compressor(name), tmp_path / "store"
    kind = method_class(name)
    manifest = stored_by(world, compressor, store)
    metrics = scores_of(world, compressor, store, tmp_path)
    card = (compressor / "README.md").read_text()
    assert all(why in card for why in (kind.why_not_stored, kind.why_no_answers) if why)
    assert ("The language model answers" in card) == (kind.why_no_answers is None)
    assert metrics["method"]["name"] == name
    assert metrics["method"]["is_stored"] == (kind.why_not_stored is None) == (manifest is not None)
    assert ("short_answer" in metrics["compressed"]) == (kind.why_no_answers is None)
    assert ("retrieval" in metrics["compressed"]) == (kind.why_not_stored is None)
    assert ("partial_queries" in metrics["compressed"]) == (kind.why_not_stored is None)
    assert (metrics["costs"]["flops_per_picture"]["compressed"] > 0) == (
        kind.why_not_stored is None
    )
    assert (metrics["costs"]["flops_per_question"]["compressed"] is None) == bool(
        kind.why_no_answers
    )
    assert (metrics["costs"]["bytes_per_picture"]["compressed"] is None) == bool(
        kind.why_not_stored
    )
    if kind.why_not_stored:
        with pytest.raises(StoreError, match="nothing is stored here"):
            answer(StoreReader.open(store), compressor, None, IMAGE_IDS[0], "what?", 3)
        return
    assert manifest
    assert manifest.rows_kept == len(IMAGE_IDS)
    search_and_ask(name, compressor, store, tmp_path / "index")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dual_encoder", "fastv"])
def test_workers_of_ray_give_what_this_process_gives(
    name: str, world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    compressor, found = world.compressor(name), list[dict[str, bytes]]()
    for place in ("there", "here"):
        if place == "here":
            request.getfixturevalue("in_this_process")
        store = tmp_path / place / "store"
        stored_by(world, compressor, store)
        scores_of(world, compressor, store, tmp_path / place)
        (tmp_path / place / "timings.json").unlink()
        files = [path for path in (tmp_path / place).rglob("*") if path.is_file()]
        found.append({str(path.relative_to(tmp_path / place)): path.read_bytes() for path in files})
    assert found[0] == found[1]


def search_and_ask(name: str, compressor: Path, store: Path, index: Path) -> None:
    """Search with and without an index finds the same; a question is answered or refused."""
    wanted = Wanted(3, None, None)
    corpus = open_corpus(store, None, compressor, None)
    (hits,) = search_queries(corpus, compressor, None, [Query("1", "a red circle")], wanted)
    build([store], index, "exact", 1, compressor, None)
    (indexed,) = search_queries(
        open_corpus(store, index), compressor, None, [Query("1", "a red circle")], wanted
    )
    assert [hit.image_id for hit in hits] == [hit.image_id for hit in indexed]
    np.testing.assert_allclose(
        [hit.score for hit in hits], [hit.score for hit in indexed], rtol=1e-5
    )
    if not method_class(name).embeds_by_mean:
        with pytest.raises(ValueError, match=f"--maxsim: {name} makes no summary tokens of a text"):
            search_queries(
                corpus, compressor, None, [Query("1", "two")], wanted._replace(maxsim=MaxSim(2, []))
            )
    if method_class(name).why_no_answers:
        with pytest.raises(ValueError, match="answer"):
            answer(StoreReader.open(store), compressor, None, IMAGE_IDS[0], "what?", 3)
    else:
        assert isinstance(
            answer(StoreReader.open(store), compressor, None, IMAGE_IDS[0], "what?", 3), str
        )

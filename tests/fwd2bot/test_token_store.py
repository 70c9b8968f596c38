"""`TokenStore` finds and answers what the flows do."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from components.search.batches import Query
from components.search.corpus import Wanted, open_maxsim
from components.store.provenance import StoreError
from components.store.store_reader import StoreReader
from flows import search
from flows.answer import answer
from fwd2bot import TokenStore
from tests.fwd2bot.conftest import IMAGE_IDS


@pytest.fixture(scope="module")
def store(project: Path) -> TokenStore:
    return TokenStore.open(project / "store")


def test_a_store_is_a_collection_of_pictures(project: Path, store: TokenStore) -> None:
    assert len(store) == 5
    assert list(store) == IMAGE_IDS
    assert "3.png" in store
    assert "x.png" not in store
    assert 3 not in store
    wanted = StoreReader.open(project / "store").tokens(["3.png"])[0]
    np.testing.assert_array_equal(store["3.png"], wanted)
    with pytest.raises(KeyError, match=r"nearest ids.*3\.png"):
        store["3.jpg"]


def test_search_gives_the_hits_of_the_job(project: Path, store: TokenStore) -> None:
    compressor = project / "models/compressor"
    corpus = search.open_corpus(project / "store", None, compressor, None)
    queries, wanted = [Query("1", "a red circle")], Wanted(3, None, None)
    (hits,) = search.search_queries(corpus, compressor, None, queries, wanted)
    assert store.search("a red circle", k=3) == hits
    assert store.search(" a red circle ")[0] == hits[0]
    finer = Wanted(3, None, open_maxsim(corpus, 4))
    (by_tokens,) = search.search_queries(corpus, compressor, None, queries, finer)
    assert store.search("a red circle", k=3, maxsim=4) == by_tokens
    assert by_tokens != hits
    with pytest.raises(ValueError, match="empty"):
        store.search("")


def test_ask_gives_the_answer_of_the_job(project: Path, store: TokenStore) -> None:
    compressor = project / "models/compressor"
    wanted = answer(
        StoreReader.open(project / "store"), compressor, None, "1.png", "where is it?", 5
    )
    assert store.ask("1.png", "where is it?", max_new_tokens=5) == wanted
    given = TokenStore.open(project / "store", compressor=compressor)
    assert given.ask("1.png", "where is it?", max_new_tokens=5) == wanted


def test_a_compressor_that_is_not_found_is_asked_for(project: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(project / "store", tmp_path / "store")
    assert len(TokenStore.open(alone)) == 5  # no compressor is needed for that
    with pytest.raises(ValueError, match="compressor=FOLDER"):
        TokenStore.open(alone).search("x")


def test_another_compressor_is_refused(project: Path, tmp_path: Path) -> None:
    other = shutil.copytree(project / "models", tmp_path / "models") / "compressor"
    name = "adapter_model.safetensors"
    shutil.copy(other / "generation" / name, other / "compression" / name)
    with pytest.raises(StoreError, match="another model"):
        TokenStore.open(project / "store", compressor=other).ask("1.png", "what?")
    alone = shutil.copytree(project / "store", tmp_path / "store")
    with pytest.raises(ValueError, match="compressor=FOLDER"):  # the only one above is another
        TokenStore.open(alone).ask("1.png", "what?")

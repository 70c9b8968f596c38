"""Job `search`: find pictures of a compressed corpus by words or by example, from the stored tokens alone.

python -m flows.search "a red circle left of a blue square"
python -m flows.search --like IMAGE_ID --store data/compressed/test
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from components.compression.store import TokenStore, normalise
from components.retrieval.index import EmbeddingIndex, Hit
from components.retrieval.query import checked_text, embed_text
from flows.corpus import COMPRESSOR, STORE, BaseOption, CompressorOption, StoreOption, load_model_of, run_job


def search(
    store: TokenStore, compressor: Path, base: str | None, text: str | None, like: str | None, k: int
) -> list[Hit]:
    """The k pictures nearest to a text or to the picture `like`, which is itself left out. Raises ValueError."""
    if (text is None) == (like is None):
        raise ValueError("give either words to search for or --like IMAGE_ID")
    if k < 1:
        raise ValueError(f"--k is {k}; ask for at least one picture")
    query = embed_image(store, like) if like is not None else embed_query(store, compressor, base, text or "")
    index = EmbeddingIndex(store.ids, store.embeddings())
    hits = index.search(query, k + (like is not None))
    return [hit for hit in hits if hit.image_id != like][:k]


def embed_image(store: TokenStore, image_id: str) -> np.ndarray:
    """The embedding (dim,) of a stored picture."""
    return normalise(store.tokens([image_id]).mean(axis=1))[0]


def embed_query(store: TokenStore, compressor: Path, base: str | None, text: str) -> np.ndarray:
    """The embedding (dim,) of a text by the model that wrote the store."""
    text = checked_text(text)
    embedding, num_cut = embed_text(load_model_of(store, compressor, base), text)
    if num_cut:
        print(f"search: the last {num_cut} tokens of the query do not fit the model and were left out", file=sys.stderr)
    return embedding


def show(hits: list[Hit]) -> str:
    """One line for each hit; ids with control characters cannot disturb the terminal."""
    lines = [
        f"{rank:4d}  {hit.score:7.4f}  {hit.image_id if hit.image_id.isprintable() else ascii(hit.image_id)}"
        for rank, hit in enumerate(hits, start=1)
    ]
    return "\n".join(["rank    score  image_id", *lines])


def main(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    like: Annotated[str | None, typer.Option(help="Look for pictures like this one of the store.")] = None,
    k: Annotated[int, typer.Option(help="How many pictures.")] = 10,
    store: StoreOption = STORE,
    compressor: CompressorOption = COMPRESSOR,
    base: BaseOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Search a compressed corpus; prints the best pictures with their cosine similarity."""
    hits = run_job("search", lambda: search(TokenStore.open(store), compressor, base, text, like, k))
    print(json.dumps([hit._asdict() for hit in hits]) if as_json else show(hits))


if __name__ == "__main__":
    typer.run(main)

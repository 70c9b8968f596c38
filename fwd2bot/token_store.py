"""A compressed corpus in one process: look pictures up, search them, ask them questions."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from components.compression.identity import check_same_model
from components.search.corpus import Corpus, Wanted, corpus_of_store, open_maxsim, search_texts
from components.search.index import Hit
from components.search.query import checked_text, embedder_of
from components.store.store_reader import StoreReader, UnknownImageError
from fwd2bot.compressor import Compressor

__all__ = ["Hit", "TokenStore"]


class TokenStore:
    """The compressed pictures of a folder, by id; `store[image_id]` reads one picture's tokens.

    Files are read when they are needed; `search` embeds all pictures once and keeps the embeddings,
    float32 (pictures, dim), in memory.
    """

    def __init__(self, reader: StoreReader, compressor: Path | None, base: str | None) -> None:
        """Take a store that is open; `TokenStore.open` opens one."""
        self._reader, self._folder, self._base = reader, compressor, base

    @classmethod
    def open(
        cls, path: Path | str, compressor: Path | str | None = None, base: str | None = None
    ) -> "TokenStore":
        """Open the folder that `fwd2bot compress` or `fwd2bot recode` wrote.

        Args: compressor: folder of the compressor that wrote it, loaded when a text is searched or
        a question asked; if not given, it is looked for as models/* in the folders above the store.
        base: folder or hub id of its base model; if not given, the one that the compressor names.

        Raises StoreError when the store is damaged or unfinished.
        """
        folder = None if compressor is None else Path(compressor)
        return cls(StoreReader.open(path), folder, base)

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Read the tokens of a picture: float32 (summary tokens, dim).

        Raises KeyError, which names the nearest ids.
        """
        try:
            tokens: np.ndarray = self._reader.tokens([image_id])[0]
        except UnknownImageError as error:
            raise KeyError(str(error)) from None
        return tokens

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._reader)

    def __contains__(self, image_id: object) -> bool:
        """Return whether a picture of this id is stored."""
        return isinstance(image_id, str) and image_id in self._reader

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids of all pictures, sorted."""
        return iter(self._reader.ids)

    @cached_property
    def compressor(self) -> Compressor:
        """The compressor that wrote the store, loaded on first use.

        Raises StoreError when the given one is another, ValueError when none is found.
        """
        folder = self._folder or find_compressor(self._reader)
        return Compressor.load_for(self._reader.provenance, folder, self._base)

    def search(self, text: str, k: int = 10, maxsim: int | None = None) -> list[Hit]:
        """Find the `k` pictures nearest to a text, best first: image_id and similarity.

        Args: maxsim: order so many of the nearest anew by MaxSim of their tokens, for a compressor
        that was trained for it; otherwise the cosine of the means decides alone.

        Raises ValueError for an empty text.
        """
        finer = None if maxsim is None else open_maxsim(self._corpus, maxsim)
        wanted = Wanted(k, among=None, maxsim=finer)
        found = search_texts(self._corpus, self.compressor.model, [checked_text(text)], wanted)
        return found.hits[0]

    def ask(self, image_id: str, question: str, max_new_tokens: int = 32) -> str:
        """Answer a question about a picture, greedily.

        Raises KeyError for an id that is not in the store, ValueError for an empty question.
        """
        return self.compressor.answer(self[image_id], question, max_new_tokens)

    @cached_property
    def _corpus(self) -> Corpus:
        provenance = self._reader.provenance
        embed = embedder_of(provenance, lambda: self.compressor.model)
        return corpus_of_store(self._reader, embed)


def find_compressor(reader: StoreReader) -> Path:
    """Find the compressor that wrote a store, as models/* in a folder above it.

    Raises ValueError when there is none.
    """
    # the nearest folder first
    for folder in reader.folder.resolve().parents:
        for config in sorted(folder.glob("models/*/config.json")):
            try:
                check_same_model(reader.provenance, config.parent)
            except (ValueError, OSError):  # another compressor, or another model
                continue
            return config.parent
    raise ValueError(
        f"{reader.folder}: the compressor that wrote it is not in models/ of a folder above; "
        "say where it is: TokenStore.open(…, compressor=FOLDER)"
    )

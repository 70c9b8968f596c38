"""E5-V (arXiv 2407.12580, §3.2): an embedder that is taught by pairs of texts alone.

What it learns can carry over to pictures, because texts and pictures lie close together just before
the word is said.
"""

from components.methods.blocks.lvlm_embedder import LvlmEmbedder, embedding_method


class E5V(LvlmEmbedder):
    """An embedder with an adapter that never reads a picture in training."""

    learns_from_texts = True


METHOD = embedding_method(E5V)

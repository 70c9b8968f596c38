"""E5-V (arXiv 2407.12580, §3.2): an embedder that is taught by pairs of texts alone.

That texts and pictures lie close together before the word is said has to carry what it learns over
to pictures.
"""

from components.methods.blocks.lvlm_embedder import LvlmEmbedder, embedding_method


class E5V(LvlmEmbedder):
    """An embedder with an adapter that never reads a picture in training."""

    learns_from_texts = True


METHOD = embedding_method(E5V)

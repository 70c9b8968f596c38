"""VLM2Vec (arXiv 2410.05160, §3.2): an embedder that is taught by pictures and their captions."""

from components.methods.blocks.lvlm_embedder import LvlmEmbedder, embedding_method


class Vlm2Vec(LvlmEmbedder):
    """An embedder with an adapter."""


METHOD = embedding_method(Vlm2Vec)

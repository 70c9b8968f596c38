"""Search over the embeddings of stored summary tokens."""

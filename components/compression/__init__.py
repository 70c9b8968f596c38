"""From pictures to stored summary tokens: the corpus, decoding, and the compression pass."""

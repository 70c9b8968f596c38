"""Scores of answers, captions, retrieval and caption pairs, with intervals; one file per family."""

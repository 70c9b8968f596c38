"""Scores of answers, captions, retrieval and caption pairs, each with a confidence interval; one file per family."""

"""Pictures into stored summary tokens: the corpus, the compressor, the codecs, and the Parquet store."""

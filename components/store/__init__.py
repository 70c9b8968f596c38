"""Stored summary tokens: codecs, shards, manifest, provenance, and the reader of a store."""

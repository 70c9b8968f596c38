"""Files on disks and in buckets: foreign files are never trusted, ours appear whole."""

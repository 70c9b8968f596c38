"""Functions that Ray workers run, one file per stage or job."""

"""Parts of `flows/sweep.py`."""

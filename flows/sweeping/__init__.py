"""The parts of `flows/sweep.py`."""

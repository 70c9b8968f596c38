"""Training as plain functions: rows to batches, one step, the loop, and its state."""

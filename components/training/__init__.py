"""Training as plain functions on tensors and rows: which samples, how they become a batch, one step, and its state."""

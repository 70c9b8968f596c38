"""The parts: plain functions and small modules on tensors, pictures and rows. No Ray, no DVC, no pipeline paths."""

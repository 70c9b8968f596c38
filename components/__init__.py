"""The parts: functions on tensors, pictures and rows. No Ray, no DVC, no pipeline paths."""

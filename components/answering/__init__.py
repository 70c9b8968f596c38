"""Many questions about many stored pictures."""

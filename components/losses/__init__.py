"""The two training losses."""

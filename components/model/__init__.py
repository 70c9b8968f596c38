"""The model: a frozen backbone, one adapter per pass, summary queries, and the two passes."""

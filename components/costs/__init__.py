"""Costs of the method: operations, memory and bytes, by formula."""

"""Curation of raw downloads into clean tables: read, check, deduplicate, split, validate.

Plain Python on rows and files; `flows/curate.py` spreads the work over Ray.
"""

"""Lineage of data: where the documents of a folder or a dataset come from, and how many of their tokens are copies."""

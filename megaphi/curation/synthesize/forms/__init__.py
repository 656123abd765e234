"""Drafts, revisions and checks of each form of synthetic data, over batches of works."""

"""Batches from a mixture, prefetched where it helps, and resumed where a run stopped."""

"""Batches out of a mixture, ahead of time where it helps, and on from where a run stopped."""

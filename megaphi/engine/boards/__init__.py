"""Boards outside the run folder that show a run's metrics: Weights & Biases."""

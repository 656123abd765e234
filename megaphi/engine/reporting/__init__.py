"""Reporting of a run: losses, speed and timings, as JSON lines, TensorBoard events and plots."""

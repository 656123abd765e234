"""Worlds whose every success probability is known, to measure search methods against the truth."""

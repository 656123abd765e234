"""The start of a run: its folder, what must be the same on all ranks, and the point it resumes from."""

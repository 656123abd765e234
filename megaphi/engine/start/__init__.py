"""The start of a run: its folder, the comparison of its ranks, and the point it resumes from."""

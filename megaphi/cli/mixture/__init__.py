"""The mixture of a run: what it reads, and fitting its shares from small runs."""

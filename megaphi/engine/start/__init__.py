"""How a run begins: its folder, what must be the same on all ranks, and where it goes on."""

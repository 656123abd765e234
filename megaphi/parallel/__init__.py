"""Distribution of a model over ranks: layout, launcher, process groups, CPU emulation, seeds."""

"""Distribution of a model over ranks: the layout's arithmetic, the launcher, process groups, CPU emulation, seeds."""

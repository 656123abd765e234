"""How a model is cut over ranks: the layout's arithmetic, the launcher, process groups, CPU emulation, seeds."""

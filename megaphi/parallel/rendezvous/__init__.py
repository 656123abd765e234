"""How a process finds the others of its job: its rank, its way there, the store, the first comparison."""

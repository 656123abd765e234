"""Where a run's numbers are shown outside its folder: Weights & Biases."""

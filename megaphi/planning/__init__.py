"""Planning of a run before it is started: memory per rank, steps, epochs."""

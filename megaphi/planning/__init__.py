"""What a run needs before it is started: memory per rank, steps, epochs."""

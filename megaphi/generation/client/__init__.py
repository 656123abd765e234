"""Remote samplers: requests that are retried, and a journal of their answers."""

"""A sampler that uses a remote server, with retries and a journal of answers."""

"""Samplers behind an address: requests that are retried, and a journal of their answers."""

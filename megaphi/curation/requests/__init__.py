"""Requests of a step to a sampler: bounded, kept in a journal, counted against a budget, answered or missed."""

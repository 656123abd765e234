"""Requests of a step to a sampler: kept in a journal, counted against a budget, answered or missed with a reason."""

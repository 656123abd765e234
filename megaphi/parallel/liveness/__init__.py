"""Liveness of a job: ranks that are dead, stopped, hung or slow are found and named."""

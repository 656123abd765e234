"""Rollouts: what is asked of a model, kept on the disk, shared between prefixes, and run for many questions at once."""

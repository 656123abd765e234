"""Saving while training goes on: each rank's shards, snapshots of them, and files."""

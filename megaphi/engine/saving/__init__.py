"""Saving while training goes on: what each rank holds, copies of it, files, and which of them stay."""

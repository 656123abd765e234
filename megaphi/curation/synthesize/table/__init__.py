"""Kinds of synthetic data as a declared table, and the prompts that it names."""

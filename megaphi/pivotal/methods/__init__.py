"""Statistics of pivotal token search: which tokens of a sampled answer change the probability of success, and by how
much.

`trace`, `rollout`, `settings` and `findings` are what goes in and out; `method` is the protocol that joins them.
NumPy only: no torch, no files, no clock. Symbols as in docs/pivotal.md.
"""

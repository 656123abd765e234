"""The guard of a run: which updates are applied, left out, or taken back. Pure: no torch, no ranks, no files."""

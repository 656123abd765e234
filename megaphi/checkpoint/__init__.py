"""Checkpoints on disk, whichever program wrote them: format, integrity, weights. Independent of Megatron."""

"""A checkpoint on disk, whoever wrote it: format, integrity, what its weights are. Knows nothing of Megatron."""

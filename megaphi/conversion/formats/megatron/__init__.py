"""Megatron-LM's checkpoints: arguments and tensors, without running a pickle."""

"""Weights to and from Hugging Face's format, tensor by tensor, without Megatron."""

"""Fused forms of the memory-bound operators of a step: norm, rotary positions, softmax, SwiGLU, cross-entropy."""

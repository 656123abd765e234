"""What a step spends its memory traffic on, fused: norm, rotary positions, softmax, SwiGLU, cross-entropy."""

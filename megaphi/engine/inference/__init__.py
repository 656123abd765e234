"""A model for reading: weights without gradients, logits of whole sequences or of a pass."""

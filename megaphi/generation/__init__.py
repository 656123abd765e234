"""Text from a model: sampling rules and the loop that applies them."""

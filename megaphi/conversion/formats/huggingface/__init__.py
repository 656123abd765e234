"""Folders of Hugging Face: config.json and weights, in both directions."""

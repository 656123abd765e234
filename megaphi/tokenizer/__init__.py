"""Phi-4's tokenizer, its special tokens, its chat format, and its export to Hugging Face files."""

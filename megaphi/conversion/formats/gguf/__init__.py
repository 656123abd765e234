"""GGUF, llama.cpp's format: its metadata, its weights, and the tokenizer inside."""

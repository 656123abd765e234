"""GGUF, llama.cpp's format: what a header says, the weights, and the tokenizer inside."""

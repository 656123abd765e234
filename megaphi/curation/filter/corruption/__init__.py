"""Corrupted text: signs of broken decoding and extraction, compression ratio, statistics of character n-grams."""

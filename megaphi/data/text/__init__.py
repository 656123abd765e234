"""Texts and records from files as people have them: found, decompressed, read, the bad ones named."""

"""Texts and records out of files as people have them: found, unpacked, read, the bad ones named."""

"""GPT-2's printable letter for every byte, in which byte-level vocabularies are written."""

from __future__ import annotations


def byte_letters() -> dict[int, str]:
    """Printable Latin-1 stands for itself, the rest move up to U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(moved)}

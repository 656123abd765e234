"""Shares of a text that broken decoding, scanning and extraction leave, each counted in characters.

Mojibake (UTF-8 that was read as Windows-1252 or Latin-1) is found by undoing it: a run of signs beyond ASCII that, put
back into bytes, is valid UTF-8 and becomes shorter. French and German text is not, since its letters stand alone.
"""

from __future__ import annotations

import re
from itertools import pairwise

_BROKEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\ufffe\uffff\ue000-\uf8ff\ud800-\udfff]")
"""Control characters, the replacement character, private use, surrogates; line ends and form feeds are none."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]{2,}")
_GARBLED = re.compile(
    r"(?<![\w.@/|$~^\\-])(?:[^\W\d_]{1,30}[0-9|$€£¥§¢¬~^\\][^\W\d_][\w|$€£¥§¢¬~^\\]{0,60}|[^\W\d_][!|;:][^\W\d_]{1,30})(?![\w/.@(-])"
)
"""A word with a digit or sign between its letters, as scanned letters become: `th1s`, `wh|ch`, `h!s`."""
_WORD = re.compile(r"[^\W\d_]+")


def _windows_1252() -> dict[str, int]:
    """Sign -> byte; the five bytes that Windows-1252 leaves free stand for themselves."""
    found = {}
    for byte in range(0x80, 0x100):
        try:
            found[bytes([byte]).decode("cp1252")] = byte
        except UnicodeDecodeError:
            found[chr(byte)] = byte
    return found | {chr(byte): byte for byte in range(0x80, 0xA0)}


_BYTE_OF = _windows_1252()


def broken_share(text: str) -> float:
    """Share of characters that no text has."""
    return len(_BROKEN.findall(text)) / max(len(text), 1)


def mojibake_share(text: str) -> float:
    """Share of characters in runs that are UTF-8 read as Windows-1252 or Latin-1."""
    return sum(len(run) for run in _BEYOND_ASCII.findall(text) if _is_mojibake(run)) / max(len(text), 1)


def _is_mojibake(run: str) -> bool:
    values = [_BYTE_OF.get(sign, -1) for sign in run]
    if -1 in values:
        return False
    try:
        return len(bytes(values).decode()) < len(run)
    except UnicodeDecodeError:
        return False


def garbled_share(text: str) -> float:
    """Share of words with digits or signs among their letters, and of letters that stand alone in rows.

    Rows are of four single letters and more, as in `T h e  t e x t`, a scan with wide spacing.
    """
    words = _WORD.findall(text)
    single = sum(len(row.split()) for row in re.findall(r"(?<!\S)(?:[^\W\d_] +){4,}[^\W\d_](?!\S)", text))
    return (len(_GARBLED.findall(text)) + single) / max(len(words), 1)


def run_share(text: str) -> float:
    """Share of characters in runs of one sign, 100 and more; spaces and signs that rule lines are left out."""
    runs = re.findall(r"(([^\s=*_#.~+|-])\2{99,})", text)
    return sum(len(run) for run, _ in runs) / max(len(text), 1)


def repeated_line_share(text: str) -> float:
    """Share of characters in lines that are the same as the line before; of 20 such lines at least, else 0."""
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line]
    again = [line for before, line in pairwise(lines) if line == before]
    return sum(map(len, again)) / max(len(text), 1) if len(again) >= 20 else 0.0

"""Bytes written as text: base64, hexadecimal and Unicode escapes, after The Stack v2 (arXiv 2402.19173).

A run is only taken for data if prose and code cannot be it: base64 has upper case, lower case and a digit, as in every
real one of this length, hexadecimal digits in one piece have letters and digits, so that the decimals of pi, a path
and a list of words are none.
"""

from __future__ import annotations

import re

_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}(?:\r?\n[A-Za-z0-9+/]{40,})*(?:\r?\n[A-Za-z0-9+/]+(?==))?={0,2}")
_HEXADECIMAL = re.compile(r"\b[0-9a-fA-F]{64,}\b")
_BYTES = re.compile(r"(?:(?:0x|\\x)[0-9a-fA-F]{2,8}[,;\s]{0,40}){8,}|(?:\\u[0-9a-fA-F]{4}){8,}")
_UPPER, _LOWER, _DIGIT, _LETTER = (re.compile(signs) for signs in ("[A-Z]", "[a-z]", "[0-9]", "[a-fA-F]"))
SHORTEST = 64
"""Characters of a run of base64 or hexadecimal digits; of escaped bytes eight are enough."""


def encoded_runs(text: str) -> list[str]:
    """All runs of encoded data, each once."""
    runs = [run for run in _HEXADECIMAL.findall(text) if _DIGIT.search(run) and _LETTER.search(run)]
    known = set(runs)
    for run in _BASE64.findall(text):
        mixed = all(signs.search(run) for signs in (_UPPER, _LOWER, _DIGIT))
        if len(run) >= SHORTEST and mixed and run not in known:
            runs.append(run)
    return runs + (_BYTES.findall(text) if "\\" in text or "0x" in text else [])

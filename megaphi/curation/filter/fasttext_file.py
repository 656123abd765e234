"""Model files of fastText: data for a reader in C++ that believes what it reads.

The header is looked at first, so that an HTML page, half a download or a file whose counts do not fit into its size is
one message instead of a crash or of all memory gone. This is no proof against a file that somebody made on purpose:
take models from where you would take a program. A folder that `megaphi curate train-classifier` wrote names the
SHA-256 of its model, which is checked.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import sys
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.foreign.files import open_regular

MAGIC, NEWEST = 793712314, 12
LARGEST_BYTES = 8 << 30
_HEADER = struct.Struct("<ii12id3iqq")
"""Magic, version; the training settings; words + labels, words, labels, tokens, pruned."""
_SPACES = re.compile(r"\s+")


@functools.cache
def open_model(path: str) -> Any:
    """The model of a file, read once in a process.

    Raises:
        InputError: there is no such file, it is none of fastText's, or the library is missing.
    """
    _check_header(Path(path))
    try:
        from fasttext.FastText import _FastText
    except ImportError:
        raise InputError("fastText is not installed: pip install 'megaphi[curation]'") from None
    try:
        model = _FastText(model_path=path)
        model.predict("a")
    except (ValueError, MemoryError, RuntimeError, TypeError) as error:
        raise InputError(f"{path}: fastText cannot use it: {error}") from None
    return model


def _check_header(path: Path) -> None:
    try:
        with open(open_regular(path), "rb") as file:
            size, header = os.fstat(file.fileno()).st_size, file.read(_HEADER.size)
    except OSError as error:
        raise InputError(f"{path}: cannot read this model of fastText: {error.strerror}") from None
    if len(header) < _HEADER.size or struct.unpack_from("<i", header)[0] != MAGIC:
        raise InputError(f"{path} is no model of fastText: it does not begin as one")
    _, version, dimension, *settings, _, entries, words, labels, _, _ = _HEADER.unpack(header)
    if version > NEWEST:
        raise InputError(f"{path}: version {version} of fastText's format, known up to {NEWEST}")
    bucket = settings[7]
    # An entry of the dictionary is a name with its zero, a count of 8 bytes and a type.
    fits = words + labels == entries and 0 <= entries <= size // 10 and 0 <= bucket <= LARGEST_BYTES
    if size > LARGEST_BYTES or not 0 < dimension <= 10_000 or not fits or min(words, labels) < 0:
        raise InputError(f"{path}: damaged, or no model of fastText: its counts do not fit into {size:,} bytes")


def predict(model: Any, line: str, *, labels: int = 1) -> list[tuple[str, float]]:
    """(Label, probability), the most probable first; `line`: words with spaces between them, maybe none."""
    found = model.f.predict(as_line(line) + "\n", labels, 0.0, "strict")
    return [(label.removeprefix("__label__"), min(float(share), 1.0)) for share, label in found]


def as_line(text: str) -> str:
    """The text in one line, as fastText reads it; lone surrogates, which UTF-8 does not have, become question marks."""
    line = _SPACES.sub(" ", text.replace("\0", " "))
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-8", "replace").decode()
    return line


def installed_file(package: str, *parts: str) -> Path | None:
    """A data file of an installed package, which is not imported; None without it."""
    for entry in sys.path:
        path = Path(entry or ".", package, *parts)
        if path.is_file():
            return path
    return None

"""Fingerprints of input files: all workers of a job find the same ones by themselves.

Inputs of up to 1 GiB in all are hashed whole; beyond, a larger file is known by its name, size, time of modification
and four blocks of 64 KiB, so that a hundred workers do not read ten terabytes each before they begin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from megaphi.errors import InputError
from megaphi.files import sha256_of

HASHED_WHOLE = 1 << 30
"""Inputs up to this many bytes in all are hashed whole."""
SAMPLED_BLOCKS = 4
SAMPLED_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input, and what tells it from others."""

    path: Path
    size_bytes: int
    fingerprint: str


def identify(paths: Sequence[Path], *, threads: int) -> list[InputFile]:
    """Size and fingerprint of every file, which all workers of a job find alike."""
    try:
        sizes = [path.stat().st_size for path in paths]
        identify_one = partial(_fingerprint, whole=sum(sizes) <= HASHED_WHOLE)
        with ThreadPoolExecutor(threads) as pool:  # hashing and reading release the GIL
            fingerprints = list(pool.map(identify_one, paths))
    except OSError as error:
        raise InputError(f"cannot read the input {error.filename}: {error.strerror}") from error
    return [InputFile(*found) for found in zip(paths, sizes, fingerprints, strict=True)]


def _fingerprint(path: Path, *, whole: bool) -> str:
    status = path.stat()
    if whole or status.st_size <= SAMPLED_BLOCKS * SAMPLED_BLOCK:
        return sha256_of(path)
    digest = hashlib.sha256(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    with open(path, "rb") as file:
        for block in range(SAMPLED_BLOCKS):
            file.seek((status.st_size - SAMPLED_BLOCK) * block // (SAMPLED_BLOCKS - 1))
            digest.update(file.read(SAMPLED_BLOCK))
    return f"sampled {digest.hexdigest()}"

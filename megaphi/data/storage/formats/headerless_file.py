"""A .bin without an index: nothing but tokens of uint16 or uint32, as written by nanoGPT and similar programs.

Such a file does not describe itself, so the source must name the `dtype`. Mistakes that can be recognised are refused:
the .bin of a pair, which has other dtypes; uint32 read as uint16, in which every second token would be a small one.
llm.c writes a header of 256 numbers (magic, version, number of tokens), which is recognised, checked and skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import TokenFile, is_url, read_run, sampled
from megaphi.data.storage.formats.flat_tokens import FlatSpan, FlatTokens, counted, open_flat
from megaphi.data.storage.formats.token_dataset import DatasetFormat, TokenLayout
from megaphi.errors import InputError

HEADER_BYTES = 1_024
DTYPE_OF_HEADER = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
"""llm.c's magic and version -> dtype (dev/data/data_common.py there)."""
LARGEST_UPPER_HALF = 3
"""The upper 16 bits of any id below 2^18, the size of the largest vocabularies in use."""


def open_headerless_file(path: str, layout: TokenLayout, remote: RemoteStore) -> FlatTokens:
    """Open the tokens of a .bin without an .idx.

    Raises:
        InputError: it is missing, is half of a pair, or is not of the source's dtype; or the source names none.
    """
    prefix = path.removesuffix(".bin")
    if bool(remote.glob(f"{prefix}.idx")) if is_url(path) else Path(f"{prefix}.idx").exists():
        raise InputError(
            f"{path} has an index beside it, {prefix}.idx: give the prefix of the pair, {prefix}, in a source that"
            " names no dtype"
        )
    return open_flat(path, layout, remote, span_without_header)


def span_without_header(path: str, data: TokenFile, layout: TokenLayout) -> FlatSpan:
    """Tokens of the source's dtype, from the first byte or from llm.c's header on."""
    if layout.dtype is None:
        raise InputError(
            f"{path} has no .idx beside it, and does not say itself what its tokens are: set the source's dtype=uint16"
            " or uint32 (and document_end, if documents matter)"
        )
    dtype = np.dtype(layout.dtype).newbyteorder("<")
    first_byte = _check_header(path, data, dtype)
    span = FlatSpan(dtype, first_byte, counted(path, data.size, dtype, first_byte=first_byte))
    if dtype.itemsize == 2 and _looks_wider(data, span):
        raise InputError(f"{path} looks like uint32: every second uint16 in it is next to nothing. Set dtype=uint32")
    return span


def _check_header(path: str, data: TokenFile, dtype: np.dtype[Any]) -> int:
    """Size of llm.c's header in bytes, 0 without one."""
    if data.size < HEADER_BYTES:
        return 0
    magic, version, tokens = read_run(data, 0, 12).view("<i4").tolist()
    stored = DTYPE_OF_HEADER.get((magic, version))
    if stored is None:
        return 0
    if stored != dtype.name:
        raise InputError(f"{path} holds {stored} by its header (llm.c's), the source's dtype is {dtype.name}")
    if HEADER_BYTES + tokens * dtype.itemsize != data.size:
        raise InputError(f"{path} is corrupted: {data.size:,} bytes, but {tokens:,} tokens by its header (llm.c's)")
    return HEADER_BYTES


def _looks_wider(data: TokenFile, span: FlatSpan) -> bool:
    """Return whether every second uint16, wherever sampled, looks like the upper half of a uint32."""
    pairs = span.token_count // 2
    if pairs < 8 or span.token_count % 2:
        return False
    starts, count = sampled(4 * pairs)
    starts = starts[:1] if data.is_remote else starts
    runs = [read_run(data, span.first_byte + start // 4 * 4, count // 4 * 4) for start in starts]
    halves = [run.view(span.dtype).reshape(-1, 2) for run in runs]
    return all((half[:, 1] <= LARGEST_UPPER_HALF).all() for half in halves) and any(
        (half[:, 0] > LARGEST_UPPER_HALF).any() for half in halves
    )


HEADERLESS_FILE = DatasetFormat(lambda path: path.endswith(".bin"), lambda path: path, open_headerless_file)

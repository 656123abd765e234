"""A .npy file: one row of tokens after NumPy's header, which gives their dtype.

Only unambiguous files are read: one dimension of uint16, uint32 or int32, little-endian. Objects (pickles) are never
loaded. OLMo's data pipeline writes files that end in .npy and have no header at all: those are read like a
`headerless_file.py`, with the dtype that the source names.
"""

from __future__ import annotations

import io

import numpy as np

from megaphi.data.storage.files.remote import RemoteStore
from megaphi.data.storage.files.token_files import TokenFile, read_run
from megaphi.data.storage.formats.flat_tokens import FlatSpan, FlatTokens, open_flat
from megaphi.data.storage.formats.headerless_file import span_without_header
from megaphi.data.storage.formats.token_dataset import DatasetFormat, TokenLayout
from megaphi.errors import InputError

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 12 + 10_000
"""NumPy's own limit for untrusted headers, and the bytes before the header's text."""
DTYPES = ("uint16", "uint32", "int32")


def open_numpy_file(path: str, layout: TokenLayout, remote: RemoteStore) -> FlatTokens:
    """The tokens of a .npy file.

    Raises:
        InputError: it is missing or corrupted, is not one row of such tokens, has no header and the source no dtype, or
            the source's dtype is another.
    """
    return open_flat(path, layout, remote, _span)


def _span(path: str, data: TokenFile, layout: TokenLayout) -> FlatSpan:
    head = read_run(data, 0, min(data.size, LONGEST_HEADER)).tobytes()
    if head.startswith(MAGIC):
        span = _read_header(path, head)
        _check(path, data, span, layout)
        return span
    if layout.dtype is None:
        raise InputError(
            f"{path} has no header of a .npy file: it is corrupted or, as OLMo's files are, tokens and nothing"
            " else; then set the source's dtype=uint16 or uint32"
        )
    return span_without_header(path, data, layout)


def _read_header(path: str, head: bytes) -> FlatSpan:
    """Parse the header of a file that holds one row of tokens."""
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{path} has version {version[0]}.{version[1]} of .npy; tokens are stored in 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    except InputError:
        raise
    except Exception as error:  # NumPy parses it as Python's literals, which fail in many ways
        raise InputError(f"{path} is corrupted: its .npy header cannot be read ({error})") from None
    if dtype.hasobject:
        raise InputError(f"{path} holds pickled Python objects, which are never loaded: save its tokens as uint16/32")
    if dtype not in [np.dtype(name).newbyteorder("<") for name in DTYPES]:
        raise InputError(
            f"{path} holds {dtype.name} ({dtype.str}): tokens must be {', '.join(DTYPES)}, little-endian. Convert it:"
            " numpy.save(path, tokens.astype('uint32'))"
        )
    if len(shape) != 1 or is_fortran:
        layout = ", in Fortran's order" if is_fortran else ""
        raise InputError(f"{path} has the shape {shape}{layout}: tokens must be one row. Save tokens.reshape(-1)")
    return FlatSpan(dtype, file.tell(), int(shape[0]))


def _check(path: str, data: TokenFile, span: FlatSpan, layout: TokenLayout) -> None:
    described = span.first_byte + span.token_count * span.dtype.itemsize
    if data.size != described:
        what = "is truncated" if data.size < described else "is corrupted"
        raise InputError(f"{path} {what}: it has {data.size:,} bytes, its header describes {described:,}")
    if layout.dtype not in (None, span.dtype.name):
        raise InputError(
            f"{path} holds {span.dtype.name} by its header, the source's dtype is {layout.dtype}: leave it out"
        )


NUMPY_FILE = DatasetFormat(lambda path: path.endswith(".npy"), lambda path: path, open_numpy_file)

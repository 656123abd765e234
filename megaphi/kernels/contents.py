"""Identity of the compiled code: one digest of the parts of `_C` and `_T` that are loaded into memory.

The same sources, compiled by the same compiler in another folder, give the same digest: debug information and the build
id, which depend on paths, are not loaded and are left out here (setup.py keeps paths out of the rest). It reads the
files, not the memory, and imports no torch.
"""

from __future__ import annotations

import hashlib
import struct
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
MODULES = ("_C", "_T")
_NOTE, _WITHOUT_BYTES, _IN_MEMORY = 7, 8, 2
"""ELF constants: the section types that describe and that hold no bytes, and the flag of those that are loaded."""


def kernels_digest() -> str | None:
    """SHA-256 over both modules; None if neither exists."""
    ending = sysconfig.get_config_var("EXT_SUFFIX")
    files = [path for name in MODULES if (path := PACKAGE / f"{name}{ending}").is_file()]
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        for part in loaded_parts(content):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def loaded_parts(content: bytes) -> Iterator[bytes]:
    """The loaded sections of a 64-bit little-endian ELF file, without its notes; any other file as a whole."""
    if not content.startswith(b"\x7fELF\x02\x01"):
        yield content
        return
    (table,) = struct.unpack_from("<Q", content, 40)
    size, count = struct.unpack_from("<HH", content, 58)
    for number in range(count):
        kind, flags, _, start, length = struct.unpack_from("<IQQQQ", content, table + number * size + 4)
        if flags & _IN_MEMORY and kind not in (_NOTE, _WITHOUT_BYTES):
            yield content[start : start + length]

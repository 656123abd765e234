"""Files that were made to expand as far as their compression allows: read block by block, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest
import zstandard

from megaphi.data.text.unpacking import unpacked_blocks

EXPANDED = 1 << 28


def zstandard_of(zeros: bytes) -> bytes:
    """One frame, in few bytes."""
    pack = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([*(pack.compress(zeros) for _ in range(EXPANDED // len(zeros))), pack.flush()])


@pytest.mark.parametrize("packing", ["gzip", "bzip2", "xz", "zstandard"])
def test_a_block_is_bounded(tmp_path, packing):
    zeros = bytes(1 << 24)
    if packing == "zstandard":
        content = zstandard_of(zeros)
    else:
        module = {"gzip": gzip, "bzip2": bz2, "xz": lzma}[packing]
        content = module.compress(zeros) * (EXPANDED // len(zeros))
    path = tmp_path / "bomb"
    path.write_bytes(content)
    lengths = [len(block) for block in unpacked_blocks(path, packing)]
    assert sum(lengths) == EXPANDED
    assert max(lengths) <= EXPANDED // 2

"""Files that were made to expand as far as their compression allows: read block by block, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import resource
from itertools import pairwise

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megaphi import json_text
from megaphi.data.text import documents, parquet_rows, unpacking
from megaphi.data.text.documents import plan_pieces, read_piece, read_records
from megaphi.data.text.unpacking import unpacked_blocks
from megaphi.errors import InputError

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


@pytest.mark.parametrize("packing", ["bzip2", "xz"])
def test_a_block_is_bounded_where_one_stream_expands_a_million_fold(tmp_path, packing):
    path = tmp_path / "bomb"
    path.write_bytes({"bzip2": bz2, "xz": lzma}[packing].compress(b"\n" * (4 * unpacking.LARGEST_BLOCK)))
    lengths = [len(block) for block in unpacked_blocks(path, packing)]
    assert sum(lengths) == 4 * unpacking.LARGEST_BLOCK
    assert max(lengths) <= unpacking.LARGEST_BLOCK


def test_a_parquet_file_of_one_long_value_many_times_is_read_in_parts(tmp_path, monkeypatch):
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 400, pyarrow.int32()), ["a" * (1 << 20)])
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), path, compression="zstd")
    assert path.stat().st_size < 2_000
    monkeypatch.setattr(parquet_rows, "MOST_MEMORY", 64 << 20)
    (piece,) = plan_pieces(path, piece_bytes=1 << 20)
    most = 0
    for count, text in enumerate(read_piece(piece), 1):  # noqa: B007
        assert len(text) == 1 << 20
        most = max(most, pyarrow.total_allocated_bytes())
    assert count == 400
    assert most < 64 << 20


def list_of_nothing() -> pyarrow.Table:
    """A second row of 50 million values, which have no bytes and are 400 MB as Python has them."""
    offsets = pyarrow.array([0, 1, 50_000_000], pyarrow.int32())
    lists = pyarrow.ListArray.from_arrays(offsets, pyarrow.nulls(50_000_000))
    return pyarrow.table({"text": ["a", "b"], "list": lists})


def test_a_parquet_row_of_very_many_values_is_refused_alone(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(list_of_nothing(), path)
    assert path.stat().st_size < 2_000
    monkeypatch.setattr(parquet_rows, "MOST_MEMORY", 64 << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    records = read_records(path)
    assert next(records)[1]["text"] == "a"
    with pytest.raises(InputError, match=r"the row after row 1 of row group 0 takes more than 64 MiB of memory"):
        next(records)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_parquet_page_that_lies_about_its_values_is_refused(tmp_path):
    """Its content says 2^31 lengths, 8 GB, of which each takes no bit; no header and no metadata tell of it."""
    path = tmp_path / "bomb.parquet"
    table = pyarrow.table({"text": ["a"] * 1_000})
    settings = {"compression": "none", "use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}}
    pyarrow.parquet.write_table(table, path, **settings)
    blocks, thousand, most = b"\x80\x01\x04", b"\xe8\x07\x02\0\0", b"\xff\xff\xff\xff\x07"
    content = path.read_bytes()
    assert content.count(blocks + thousand) == 1
    path.write_bytes(content.replace(blocks + thousand, blocks + most))
    with pytest.raises(InputError, match=r"the row after row 0 of row group 0 takes more than 1,024 MiB"):
        list(read_records(path))


def test_a_small_text_file_that_unpacks_to_a_large_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(b"a" * 3_000_000))
    monkeypatch.setattr(documents, "LONGEST_LINE", 1_000_000)
    with pytest.raises(InputError, match=r"bomb\.txt\.gz unpacks from 2,\d+ bytes to more than"):
        list(documents.read_documents(path))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_of_nuls_is_not_read_to_its_end(tmp_path, monkeypatch, name):
    """A hole of a terabyte costs no disk, and a thousandth of it in gzip; whatever is done with bad records."""
    path, refused = tmp_path / name, []
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(b'{"text": "a"}\n' + bytes(1 << 26)))
    else:
        path.write_text('{"text": "a"}\n')
        os.truncate(path, 1 << 40)
    monkeypatch.setattr(documents, "LONGEST_LINE", 1 << 20)
    records = documents.read_records(path, refuse=lambda where, why: refused.append(why))
    assert next(records)[1] == {"text": "a"}
    with pytest.raises(InputError, match=f"{name}: a line of more than 1,048,576 bytes .* NUL bytes: it is no text"):
        next(records)
    assert not refused


def test_numbered_lines_are_those_of_the_whole_whatever_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONGEST_LINE", 6)
    draw = random.Random(0)
    for _ in range(2_000):
        content = bytes(draw.choices(b"\nab", weights=(2, 3, 1), k=draw.randrange(40)))
        cuts = sorted(draw.randrange(len(content) + 1) for _ in range(4))
        blocks = [content[start:end] for start, end in pairwise([0, *cuts, len(content)])]
        lines = [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line]
        expected = [(number, line if len(line) <= 6 else None) for number, line in lines]
        assert list(documents._numbered_lines(blocks, tmp_path)) == expected


def test_empty_lines_cost_nothing_and_are_counted(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' + b"\n" * 3_000_000 + b'{"text": "b"}\n\n[1]\n'))
    refused = []
    (piece,) = plan_pieces(path, piece_bytes=1 << 20)
    assert list(read_piece(piece, refuse=lambda where, why: refused.append(where))) == ["a", "b"]
    assert refused == [f"{path}:3000004"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_a_record_of_very_many_values_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(json_text, "MOST_VALUES", 1_000_000)
    path = tmp_path / name
    text = b'[{"text": "a"}, {"list": [%s0]}]' if name == "a.json" else b'{"text": "a"}\n{"list": [%s0]}\n'
    content = text % (b"{}," * 1_200_000)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match=r"a\.json.*: it holds more than 1,000,000 values"):
        list(read_records(path))

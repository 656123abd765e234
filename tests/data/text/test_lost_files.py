"""An input that goes away, or can no longer be read, during a run: one message that names it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megaphi.data.text.documents import line_numbers, plan_pieces, read_piece
from megaphi.errors import InputError

LINES = b'{"text": "a"}\n{"text": "b"}\n'
FILES = {"a.jsonl": LINES, "a.jsonl.gz": gzip.compress(LINES), "a.json": b'[{"text": "a"}]', "a.txt": b"a"}


def written(folder: Path, name: str) -> Path:
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), folder / name)
    else:
        (folder / name).write_bytes(FILES[name])
    return folder / name


@pytest.mark.parametrize("name", [*FILES, "a.parquet"])
def test_a_file_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    (piece,) = plan_pieces(path, piece_bytes=1 << 20)
    assert next(read_piece(piece)) == "a"
    path.unlink()
    for read in (lambda: list(read_piece(piece)), lambda: plan_pieces(path, piece_bytes=1 << 20)):
        with pytest.raises(InputError, match=rf"{name}.*[Nn]o such file|[Nn]o such file.*{name}"):
            read()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl")
    (piece,) = plan_pieces(path, piece_bytes=1 << 20)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"cannot read .*a\.jsonl: Is a directory"):
        list(read_piece(piece))
    with pytest.raises(InputError, match=r"cannot read .*a\.jsonl"):
        line_numbers(path, [3])

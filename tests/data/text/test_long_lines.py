"""A line over many pieces is read once by the pieces together, and belongs to the one in which it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.data.text import documents
from megaphi.data.text.documents import plan_pieces, read_piece


class CountingFile:
    """A file that counts the bytes read from it."""

    read_bytes = 0

    def __init__(self, path: Path, mode: str) -> None:
        self._file = path.open(mode)

    def __enter__(self) -> CountingFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def seek(self, place: int) -> int:
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()

    def readline(self, most: int) -> bytes:
        line = self._file.readline(most)
        CountingFile.read_bytes += len(line)
        return line


@pytest.mark.parametrize("longest", [1 << 28, 50_000])
def test_a_line_of_many_pieces_is_read_twice_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "a"}\n', b'{"text": "%s"}\n' % (b"b" * 200_000), b'{"text": "c"}\n']
    path.write_bytes(b"".join(lines))
    pieces = plan_pieces(path, piece_bytes=1_000)
    monkeypatch.setattr(documents, "LONGEST_LINE", longest)
    monkeypatch.setattr(documents, "open", CountingFile, raising=False)
    CountingFile.read_bytes = 0
    refused: list[str] = []
    texts = [text[:1] for piece in pieces for text in read_piece(piece, refuse=lambda where, why: refused.append(why))]
    assert texts == (["a", "b", "c"] if longest > 200_000 else ["a", "c"])
    assert len(refused) == (longest < 200_000)
    assert CountingFile.read_bytes < 2.2 * path.stat().st_size

"""Reading documents: every format gives the same texts, any cut gives the same order, an error names file and line."""

from __future__ import annotations

import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.text.documents import plan_pieces, read_documents, read_piece
from megaphi.data.text.input_files import find_files
from megaphi.errors import InputError

TEXTS = ["one", "", "zwei\nZeilen\r\n", "\u2028 drei \x85", '"quoted" \\', "語" * 40, "\ufeffbom", "last"]
WRITERS = {}


def writer(ending):
    def register(function):
        WRITERS[ending] = function
        return function

    return register


def lines_of(texts):
    return b"".join(json.dumps({"id": 7, "text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


@writer("a.jsonl")
def write_jsonl(path, texts):
    path.write_bytes(lines_of(texts))


@writer("no_last_line_break.jsonl")
def write_jsonl_without_last_line_break(path, texts):
    path.write_bytes(lines_of(texts)[:-1])


@writer("crlf_and_blank_lines.jsonl")
def write_jsonl_of_windows(path, texts):
    path.write_bytes(b"\xef\xbb\xbf" + lines_of(texts).replace(b"\n", b"\r\n\r\n"))


@writer("two_members.jsonl.gz")
def write_gzip(path, texts):
    path.write_bytes(gzip.compress(lines_of(texts[:3])) + gzip.compress(lines_of(texts[3:])))


@writer("two_frames.jsonl.zst")
def write_zstandard(path, texts):
    path.write_bytes(zstandard.compress(lines_of(texts[:3])) + zstandard.compress(lines_of(texts[3:])))


@writer("groups.parquet")
def write_parquet(path, texts):
    table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=3)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_texts(tmp_path, name):
    WRITERS[name](tmp_path / name, TEXTS)
    assert list(read_documents(tmp_path / name)) == TEXTS


@pytest.mark.parametrize("name", ["story.txt", "README.md"])
def test_a_plain_text_file_is_one_document(tmp_path, name):
    (tmp_path / name).write_text("\ufeffone\n\ntwo\n", encoding="utf-8")
    assert list(read_documents(tmp_path / name)) == ["one\n\ntwo\n"]


@given(texts=st.lists(st.text(max_size=8), max_size=10), piece_bytes=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_give_every_document_once_and_in_order(tmp_path_factory, texts, piece_bytes):
    folder = tmp_path_factory.mktemp("pieces")
    for name in ("a.jsonl", "no_last_line_break.jsonl", "groups.parquet"):
        path = folder / name
        WRITERS[name](path, texts)
        pieces = plan_pieces(path, piece_bytes=piece_bytes)
        assert [text for piece in pieces for text in read_piece(piece)] == texts
        if name == "a.jsonl":
            assert len(pieces) == -(-path.stat().st_size // piece_bytes)
            assert sum(piece.size_bytes for piece in pieces) == path.stat().st_size


def test_files_are_found_once_and_in_order(tmp_path):
    for name in ("b.jsonl", "a.txt", "deep/c.jsonl.gz", "notes.doc"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    def found(*inputs):
        return [path.relative_to(tmp_path).as_posix() for path in find_files([tmp_path / name for name in inputs])]

    assert found("") == ["a.txt", "b.jsonl", "deep/c.jsonl.gz"]
    assert found("b.jsonl", "") == ["b.jsonl", "a.txt", "deep/c.jsonl.gz"]
    assert found("*.jsonl", "**/*.gz", "b.jsonl") == ["b.jsonl", "deep/c.jsonl.gz"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", "input not found"),
        ("*.parquet", "nor a pattern that matches one"),
        ("notes.doc", r"its name should end in one of \.jsonl, "),
        ("empty", "no documents in the folder"),
    ],
)
def test_inputs_that_name_nothing(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").touch()
    with pytest.raises(InputError, match=message):
        find_files([tmp_path / name])


GOOD = b'{"text": "fine"}\n'


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'{"text": "open', "not a JSON record"),
        (b'{"body": "x", "url": "y"}', r"no 'text' field; its fields are 'body', 'url' \(--text-key"),
        (b'{"text": null}', "'text' is null, not text"),
        (b'{"text": 3}', "'text' is a number, not text"),
        (b'{"text": ["x"]}', "'text' is a list, not text"),
        (b'["text"]', "expected a JSON object with a 'text' field, found a list"),
        (b'{"text": "\xff"}', r"not a JSON record: not UTF-8 text, convert it first \(byte 10\)"),
        (b"[" * 100_000, "not a JSON record"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_bad_record_is_named_by_file_and_line(tmp_path, ending, record, message):
    packed = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[ending]
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(packed(GOOD + b"\n" + GOOD + record + b"\n" + GOOD))
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}:4: {message}"):
        list(read_documents(path))


def test_the_line_of_an_error_does_not_depend_on_the_piece(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD * 20 + b"oops\n" + GOOD * 5)
    last_but_one = plan_pieces(path, piece_bytes=340)[1]
    with pytest.raises(InputError, match=r"bad\.jsonl:21: not a JSON record"):
        list(read_piece(last_but_one))


def test_a_bad_row_of_a_parquet_file(tmp_path):
    path = tmp_path / "bad.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c", "d", None]}), path, row_group_size=2)
    with pytest.raises(InputError, match=r"bad\.parquet: row 5: 'text' is null"):
        list(read_documents(path))
    with pytest.raises(InputError, match=r"no column 'body'; it has text"):
        list(read_documents(path, text_key="body"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a complete parquet file"):
        list(read_documents(path))


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_truncated_and_damaged_archives(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    pack = gzip.compress if ending == "jsonl.gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    whole = pack(lines_of([str(number) * 50 for number in range(500)]))
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"a\.jsonl\.\w+ is .*truncated"):
        list(read_documents(path))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 8]) + whole[middle + 8 :])
    with pytest.raises(InputError, match=r"a\.jsonl\.\w+ is corrupted"):
        list(read_documents(path))


def test_a_text_file_that_is_not_utf8(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"old\.txt:2: not UTF-8 text, convert it first \(byte 8 of the file\)"):
        list(read_documents(tmp_path / "old.txt"))

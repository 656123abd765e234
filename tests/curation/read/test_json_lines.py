"""Documents from JSON lines: what becomes of every kind of record, pieces of any size, damaged and hostile files."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.document import Document, Rejected
from megaphi.curation.document_record import document_of, json_line, output_record, whole_record
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.write.json_lines import WriteJsonLines
from megaphi.data.text import documents as text_documents
from megaphi.errors import InputError


def outcomes(*paths, **settings):
    reader = ReadJsonLines(paths=tuple(map(str, paths)), **settings)
    return [outcome for portion in reader.portions() for outcome in reader.read(portion)]


def test_fields_of_a_record(tmp_path):
    path = tmp_path / "a.jsonl"
    record = {"id": 7, "text": "hello", "url": "http://x", "score": 0.5, "metadata": {"lang": "en"}}
    path.write_text(json.dumps(record) + '\n{"text": "no id"}\n')
    first, second = outcomes(path)
    assert first == Document(
        id="7", source="http://x", place=f"{path}@0", text="hello", metadata={"score": 0.5, "lang": "en"}
    )
    start = len(json.dumps(record)) + 1
    assert (second.id, second.source, second.place) == (f"{path}@{start}", str(path), f"{path}@{start}")


BAD = [
    (b"{broken", "not_json"),
    (b"[1, 2]", "not_an_object"),
    (b'{"id": "x"}', "no_text"),
    (b'{"text": null}', "no_text"),
    (b'{"text": 3}', "no_text"),
    (b'{"text": "\xff\xfe"}', "not_utf8"),
    (b"[" * 100_000, "not_json"),
    (b'{"text": "a\0b"', "not_json"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_record_stops_nothing(tmp_path, line, reason, packed):
    content = b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n'
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    before, bad, after = outcomes(path)
    assert (before.text, after.text) == ("before", "after")
    assert isinstance(bad, Rejected)
    assert bad.reason == reason
    assert bad.document.place == (f"{path}:2" if packed else f"{path}@19")


def test_a_line_that_is_too_long_is_skipped_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_documents, "LONGEST_LINE", 1_000)
    content = b'{"text": "before"}\n' + b'{"text": "' + b"x" * 5_000_000 + b'"}\n{"text": "after"}\n'
    for name, made in (("a.jsonl", content), ("a.jsonl.zst", zstandard.compress(content))):
        (tmp_path / name).write_bytes(made)
        before, bad, after = outcomes(tmp_path / name)
        assert (before.text, bad.reason, after.text) == ("before", "too_long_line", "after")


def test_a_file_that_is_cut_short_gives_what_came_before(tmp_path):
    lines = b"".join(json.dumps({"text": f"{number} " * 50}).encode() + b"\n" for number in range(2_000))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-200])
    *good, bad = outcomes(path)
    assert len(good) > 100
    assert bad.reason == "unreadable_file"
    assert "truncated" in bad.detail


@given(st.lists(st.text(), max_size=20), st.integers(1, 300))
def test_pieces_of_any_size_give_the_same_documents(tmp_path_factory, texts, size):
    path = tmp_path_factory.mktemp("pieces") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) or "\n")
    assert [found.text for found in outcomes(path, piece_bytes=size)] == texts


def test_what_was_written_is_read_as_it_was(tmp_path):
    found = [
        Document(
            id=f"d{number}",
            source="http://x",
            place="p@1",
            text=text,
            metadata={"title": "t", "content_sha256": "ab"},
            history=("one", "two"),
        )
        for number, text in enumerate(["a", "line\nfeed \u2028", "lone \ud800"])
    ]
    WriteJsonLines().write(found, tmp_path)
    WriteJsonLines(compress=False).write(found, tmp_path)
    for name in ("documents.jsonl.zst", "documents.jsonl"):
        again = outcomes(tmp_path / name)
        assert [replace(one, place="p@1") for one in again] == found


def test_the_hashes_are_those_of_text_and_content():
    import hashlib

    record = output_record(Document(id="a", source="b", place="c", text="é", metadata={"content_sha256": "ab", "n": 1}))
    assert record["hashes"] == {"text": hashlib.sha256("é".encode()).hexdigest(), "content": "ab"}
    assert record["metadata"] == {"n": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.text(st.characters()),  # lone surrogates too
    st.binary(max_size=50),
    st.dictionaries(st.text(), st.binary(max_size=5), max_size=3),
    st.dictionaries(st.text(), values, max_size=4),
    st.lists(st.text(), max_size=3),
)
def test_a_document_goes_to_the_disk_whole(text, content, files, metadata, history):
    from megaphi.json_text import parse_json

    found = Document(
        id="i",
        source="s",
        place="p",
        text=text,
        content=content,
        media_type="a/b",
        files=files,
        metadata=metadata,
        history=tuple(history),
    )
    assert document_of(parse_json(json_line(whole_record(found)))) == found


def test_a_wrong_input_is_said(tmp_path):
    with pytest.raises(InputError, match="input not found"):
        outcomes(tmp_path / "nothing")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="read it with the reader of its own format"):
        outcomes(tmp_path / "a.parquet")

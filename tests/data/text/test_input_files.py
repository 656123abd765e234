"""Expansion of a folder, a pattern or a name, and reading its files: the same for documents and for records."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import socket

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from megaphi.data.text.documents import plan_pieces, read_documents, read_piece, read_records
from megaphi.data.text.input_files import LeftOut, files_by_input, find_files
from megaphi.data.text.input_formats import Format, format_of
from megaphi.errors import InputError

PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def put(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def lines(*texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def found(folder, *inputs, texts=True):
    left_out = LeftOut()
    files = find_files([folder / name for name in inputs or ("",)], texts=texts, left_out=left_out)
    return [path.relative_to(folder).as_posix() for path in files], left_out.names


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL", "a.Json"])
def test_records_are_read_whatever_they_are_packed_with(tmp_path, name, packed):
    path = tmp_path / (name + packed.upper())
    put(path, PACK[packed](lines("one", "two")))
    assert find_files([tmp_path]) == find_files([tmp_path], texts=False) == [path]
    assert list(read_documents(path)) == ["one", "two"]
    assert [record for _, record in read_records(path)] == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize("packed", PACK)
def test_plain_text_may_be_packed_too(tmp_path, packed):
    put(tmp_path / f"book.txt{packed}", PACK[packed]("\ufeffcafé\n".encode()))
    assert list(read_documents(tmp_path / f"book.txt{packed}")) == ["café\n"]
    put(tmp_path / "old.txt", "abc".encode("utf-16-le"))
    with pytest.raises(InputError, match=r"old\.txt: holds NUL bytes: UTF-16 text"):
        list(read_documents(tmp_path / "old.txt"))


FORMS_OF_JSON = {
    "lines": lines("one", "two"),
    "one line": b'{"text": "one"}',
    "a list": json.dumps([{"text": "one"}, {"text": "two"}]).encode(),
    "a list over many lines": json.dumps([{"text": "one"}, {"text": "two"}], indent=2).encode(),
    "a list with a mark": b"\xef\xbb\xbf\n [ ]",
    "data": json.dumps({"version": 1, "data": [{"text": "one"}, {"text": "two"}]}).encode(),
    "data over many lines": json.dumps({"data": [{"text": "one"}, {"text": "two"}]}, indent=1).encode(),
    "objects over many lines": b'{\n "text": "one"\n}\n{\n "text": "two"\n}\n',
    "nothing": b"",
}


@pytest.mark.parametrize("content", FORMS_OF_JSON.values(), ids=FORMS_OF_JSON)
def test_a_json_file_is_read_in_each_form_it_has(tmp_path, content):
    put(tmp_path / "a.json", content)
    texts = ["one", "two"][: 2 if b"two" in content else content.count(b"one")]
    assert list(read_documents(tmp_path / "a.json")) == texts


def test_lines_in_a_json_file_are_cut_into_pieces_and_a_list_is_not(tmp_path):
    put(tmp_path / "lines.json", lines(*map(str, range(50))))
    put(tmp_path / "list.json", json.dumps([{"text": str(number)} for number in range(50)]))
    assert len(plan_pieces(tmp_path / "lines.json", piece_bytes=100)) > 5
    assert len(plan_pieces(tmp_path / "list.json", piece_bytes=100)) == 1
    for name in ("lines.json", "list.json"):
        pieces = plan_pieces(tmp_path / name, piece_bytes=100)
        assert [text for piece in pieces for text in read_piece(piece)] == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"text": "a"},\n {"text": "b"', r"a\.json:2: not JSON: .* ends too early"),
        (b'[{"text": "a"}\n {"text": "b"}]', r"a\.json:2: not JSON: expected a comma between records"),
        (b'[{"text": "a"},\n]', r"a\.json:2: not JSON: a comma before the end of the list"),
        (b'[{"text": "a"}]\n[]', r"a\.json:2: not JSON: there is more text after the end"),
        (b'[{"text": "a"},\n\n{"text": oops}, {"text": "c"}]' + b" " * 100, r"a\.json:3: not JSON: Expecting value"),
        (b'[{"text": "a"}, 5]', r"a\.json:1 \(record 2\): expected a JSON object with a 'text' field, found a number"),
        (b'[{"text": "\xff"}]', r"a\.json: not UTF-8 text"),
        (b"[" * 100_000, r"a\.json:1 \(record 1\): not JSON: its lists and objects are nested too deeply"),
        (b'{"text": "a"}\n{"text": \n{"text": "c"}\n', r"a\.json:2: not a JSON record"),
        (b'{"text": \n{"text": "c"}\n', r"a\.json:1: not a JSON record"),
    ],
    ids=repr,
)
def test_a_fault_in_a_json_file_is_named_by_its_line(tmp_path, content, message):
    put(tmp_path / "a.json", content)
    with pytest.raises(InputError, match=message):
        list(read_documents(tmp_path / "a.json"))


def test_a_list_longer_than_the_window_is_read_with_any_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("megaphi.data.text.unpacking.READ_BYTES", 7)
    texts = ["語" * 20, 'a "quoted" \\ text', "", "x" * 100]
    records = [{"id": 10**18 + 7, "text": text, "more": [1.5e-3, None, True]} for text in texts]
    put(tmp_path / "a.json", json.dumps(records, ensure_ascii=False))
    assert list(read_documents(tmp_path / "a.json")) == texts
    put(tmp_path / "b.json", "[" + "9" * 30 + ", 12]")
    with pytest.raises(InputError, match=r"b\.json:1 \(record 1\): expected a JSON object.*found a number"):
        list(read_documents(tmp_path / "b.json"))


def test_what_nobody_means_by_a_folder_is_left_out_and_named(tmp_path):
    for name in ("pages.jsonl", "deep/more.json.gz", "book.txt", "Table.PARQUET"):
        put(tmp_path / name)
    for name in (".git/a.jsonl", "._pages.jsonl", ".hidden.txt", "_temporary/0/part.jsonl", "_delta_log/0.json"):
        put(tmp_path / name)
    for name in ("README.md", "LICENSE.txt", "dataset_info.json", "notes.md", "deep/README"):
        put(tmp_path / name)
    for name in ("a.csv", "b.CSV", "pages.jsonl.gz.part", "_SUCCESS", "table.parquet.gz"):
        put(tmp_path / name)
    put(tmp_path / "part-3.jsonl", b"")
    files, left_out = found(tmp_path)
    assert files == ["Table.PARQUET", "book.txt", "deep/more.json.gz", "pages.jsonl"]
    assert left_out == {
        "hidden": ["._pages.jsonl", ".git", ".hidden.txt"],
        "folders of tools, by their name": ["_delta_log", "_temporary"],
        "about the data, no part of it": ["LICENSE.txt", "README.md", "dataset_info.json", "notes.md"],
        "of other kinds, without an ending": ["_SUCCESS", "README"],
        "of other kinds, .csv": ["a.csv", "b.CSV"],
        "of other kinds, .part": ["pages.jsonl.gz.part"],
        "of other kinds, .gz": ["table.parquet.gz"],
        "empty": ["part-3.jsonl"],
    }
    records, left_out = found(tmp_path, texts=False)
    assert records == ["Table.PARQUET", "deep/more.json.gz", "pages.jsonl"]
    assert left_out["plain text, where records are read"] == ["book.txt"]


def test_markdown_in_a_folder_of_texts_and_by_name_is_a_document(tmp_path):
    for name in ("guide.md", "more/tips.md", "README.md"):
        put(tmp_path / "docs" / name)
    put(tmp_path / "card" / "README.md")
    assert found(tmp_path / "docs") == (
        ["guide.md", "more/tips.md"],
        {"about the data, no part of it": ["README.md"]},
    )
    assert found(tmp_path, "card")[0] == ["card/README.md"]
    assert found(tmp_path, "docs/README.md", "docs/**/*.md")[0] == [
        "docs/README.md",
        "docs/guide.md",
        "docs/more/tips.md",
    ]


def test_links_are_followed_once_and_what_is_no_file_is_named(tmp_path):
    put(tmp_path / "in/a.jsonl")
    put(tmp_path / "elsewhere/b.jsonl")
    (tmp_path / "in/again.jsonl").symlink_to("a.jsonl")
    (tmp_path / "in/up").symlink_to("..")
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "in/gone.jsonl").symlink_to("nowhere")
    (tmp_path / "in/other").symlink_to("../elsewhere")
    os.mkfifo(tmp_path / "in/pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(tmp_path / "in", os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/talk.jsonl")  # the whole path may be too long for an address
        os.close(here)
    files, left_out = found(tmp_path, "in")
    assert files == ["in/a.jsonl", "in/other/b.jsonl"]
    assert left_out["broken links"] == ["gone.jsonl", "self"]
    assert left_out["no regular file"] == ["pipe.jsonl", "talk.jsonl"]
    assert left_out["links to a folder that is read already"]
    with pytest.raises(InputError, match="is a pipe, socket or device, which cannot be read twice"):
        find_files([tmp_path / "in/pipe.jsonl"])


def test_a_folder_or_pattern_with_nothing_to_read_says_what_is_there(tmp_path):
    for name in ("a.csv", ".b.jsonl"):
        put(tmp_path / name)
    with pytest.raises(InputError, match=r"no documents in the folder .*not read: 1 hidden \(\.b\.jsonl\); .*a\.csv"):
        find_files([tmp_path])
    with pytest.raises(InputError, match=r"no documents that the pattern .*\*\.csv matches: .*a\.csv"):
        find_files([tmp_path / "*.csv"])
    put(tmp_path / "sub/c.jsonl", lines("c"))
    assert found(tmp_path, "*") == (["sub/c.jsonl"], {"of other kinds": ["a.csv"]})


def test_a_file_by_name_without_an_ending_is_known_by_its_content(tmp_path):
    put(tmp_path / "part-00000", lines("one"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["two"]}), tmp_path / "part-00001")
    put(tmp_path / "part-00002", gzip.compress(lines("three")))
    put(tmp_path / "notes.doc", b"no JSON")
    assert [list(read_documents(path)) for path in find_files([tmp_path / f"part-0000{n}" for n in range(3)])] == [
        ["one"],
        ["two"],
        ["three"],
    ]
    with pytest.raises(InputError, match=r"unknown file type: cannot read .*notes\.doc: its name should end in one of"):
        find_files([tmp_path / "notes.doc"])


def test_what_a_file_is_packed_with_its_content_says(tmp_path):
    put(tmp_path / "a.jsonl", gzip.compress(lines("one")))
    put(tmp_path / "b.jsonl.gz", zstandard.compress(lines("two")))
    assert format_of(tmp_path / "a.jsonl") == Format("lines", "gzip")
    assert [list(read_documents(tmp_path / name)) for name in ("a.jsonl", "b.jsonl.gz")] == [["one"], ["two"]]
    put(tmp_path / "c.jsonl.gz", lines("three"))
    with pytest.raises(InputError, match=r"c\.jsonl\.gz is corrupted, or not compressed with .*take \.gz off its name"):
        list(read_documents(tmp_path / "c.jsonl.gz"))


@pytest.mark.parametrize("packed", [ending for ending in PACK if ending])
def test_members_are_read_to_the_end_and_what_else_is_there_is_named(tmp_path, packed):
    path, pack = tmp_path / f"a.jsonl{packed}", PACK[packed]
    whole = pack(lines("one")) + pack(b"") + pack(lines("two" * 100_000))
    put(path, whole)
    assert list(read_documents(path)) == ["one", "two" * 100_000]
    put(path, whole + b"\0" * 512)
    assert len(list(read_documents(path))) == 2
    put(path, whole[:-3])
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is truncated: .* compressed with .* does not end"):
        list(read_documents(path))
    put(path, whole + b"something else, and long enough to be looked at")
    with pytest.raises(InputError, match=r"is corrupted: after its end \(\w+, part 3\) there is something else"):
        list(read_documents(path))
    put(path, b"")
    assert list(read_documents(path)) == []


def test_a_zstandard_frame_with_a_long_window(tmp_path):
    """`zstd --long=28`; one beyond what the library takes is a window, not damage."""
    path = tmp_path / "a.jsonl.zst"
    window = zstandard.ZstdCompressionParameters.from_level(3, window_log=28)
    packer = zstandard.ZstdCompressor(compression_params=window).compressobj()
    frame = packer.compress(lines("x")) + packer.flush()
    put(path, frame)
    assert list(read_documents(path)) == ["x"]
    assert frame[4] & 0x20 == 0  # the frame has a window descriptor of its own: exponent - 10, in five bits
    put(path, frame[:5] + bytes([(41 - 10) << 3]) + frame[6:])
    with pytest.raises(InputError, match="was compressed with a window of more than 2 GiB"):
        list(read_documents(path))
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    put(path, skippable + zstandard.compress(lines("y")))
    assert list(read_documents(path)) == ["y"]


def test_a_parquet_file_that_cannot_be_turned_into_python(tmp_path):
    """Text that is not UTF-8 is a row's fault; a column that nobody needs is not even read."""
    bad_text = pyarrow.array([b"fine", b"\xff"]).cast(pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": bad_text}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: row 2: not UTF-8 text"):
        list(read_documents(tmp_path / "a.parquet"))
    when = pyarrow.array([2**62 + 1], pyarrow.timestamp("ns"))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "when": when}), tmp_path / "b.parquet")
    ((_, record),) = read_records(tmp_path / "b.parquet", columns=["text"])
    assert record == {"text": "a", "when": ...}
    big = pyarrow.table({"text": [str(number) * 50 for number in range(5_000)]})
    pyarrow.parquet.write_table(big, tmp_path / "c.parquet", compression="zstd")
    content = bytearray((tmp_path / "c.parquet").read_bytes())
    content[200:600] = b"\xaa" * 400
    put(tmp_path / "c.parquet", bytes(content))
    with pytest.raises(InputError, match=r"c\.parquet is corrupted after row 0"):
        list(read_documents(tmp_path / "c.parquet"))


def test_a_file_that_two_inputs_name_belongs_to_the_first(tmp_path):
    for name in ("a/1.jsonl", "a/2.jsonl", "b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "one"}\n')
    (tmp_path / "link.jsonl").symlink_to("b.jsonl")
    inputs = [str(tmp_path / name) for name in ("a/2.jsonl", "a", "*.jsonl", "b.jsonl", "a")]
    found = files_by_input(inputs)
    assert [[path.name for path in files] for files in found.values()] == [["2.jsonl"], ["1.jsonl"], ["b.jsonl"], []]
    assert list(found) == inputs[:4]
    assert find_files(inputs) == [path for files in found.values() for path in files]

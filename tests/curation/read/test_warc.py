"""WARC files: every page that is whole comes out, every other is rejected with its place, whatever lies between."""

from __future__ import annotations

import gzip
import random
import uuid
import zlib
from pathlib import Path
from typing import Any

import fsspec
import pytest

from megaphi.curation.document import Document, Rejected
from megaphi.curation.read.warc import ReadWarc, decoded_body
from megaphi.errors import InputError

PAGE = b"<html><body>" + bytes(range(32, 127)) * 8 + b"</body></html>"


def record(url: str, page: bytes = PAGE, *, headers: str = "", status: str = "200 OK", kind: str = "response") -> bytes:
    if kind == "response":
        content = f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{headers}\r\n".encode() + page
        media_type = "application/http; msgtype=response"
    else:
        content, media_type = page, "text/plain"
    named = str(uuid.uuid5(uuid.NAMESPACE_URL, url))
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{named}>\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"WARC-Target-URI: {url}\r\nContent-Type: {media_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content + b"\r\n\r\n"


def read(path: Path, content: bytes, **settings: Any) -> tuple[list[Document], list[Rejected]]:
    path.write_bytes(content)
    reader = ReadWarc(paths=(str(path),), **settings)
    (portion,) = reader.portions()
    outcomes = list(reader.read(portion))
    kept = [outcome for outcome in outcomes if isinstance(outcome, Document)]
    return kept, [outcome for outcome in outcomes if isinstance(outcome, Rejected)]


RECORDS = [record(f"http://example.org/{number}", headers="Content-Language: de\r\n") for number in range(6)]


def packed(records: list[bytes]) -> list[bytes]:
    return [gzip.compress(each, mtime=0) for each in records]


@pytest.mark.parametrize("ending", [".warc", ".warc.gz"])
def test_pages_come_with_their_url_type_and_place(tmp_path: Path, ending: str) -> None:
    records = RECORDS if ending == ".warc" else packed(RECORDS)
    path = tmp_path / f"a{ending}"
    kept, rejected = read(path, b"".join(records))
    assert not rejected
    assert [document.source for document in kept] == [f"http://example.org/{number}" for number in range(6)]
    assert all(document.content == PAGE for document in kept)
    assert [document.place for document in kept] == [f"{path}@{sum(map(len, records[:number]))}" for number in range(6)]
    assert len({document.id for document in kept}) == 6
    assert kept[0].media_type == "text/html; charset=utf-8"
    assert kept[0].metadata == {
        "url": "http://example.org/0",
        "date": "2024-01-01T00:00:00Z",
        "http_headers": {"content-language": "de"},
    }


@pytest.mark.parametrize("ending", [".warc", ".warc.gz"])
def test_a_file_cut_anywhere_gives_all_records_before_the_cut(tmp_path: Path, ending: str) -> None:
    records = RECORDS[:3] if ending == ".warc" else packed(RECORDS[:3])
    whole, ends = b"".join(records), [len(b"".join(records[: number + 1])) for number in range(3)]
    chance = random.Random(3)
    for cut in [1, 9, 40, *(chance.randrange(1, len(whole)) for _ in range(40))]:
        kept, rejected = read(tmp_path / f"cut{ending}", whole[:cut], media_types=())
        complete = sum(end <= cut for end in ends)
        assert complete <= len(kept) <= complete + 1  # only the line ends behind it, or its checksum, are missing
        assert all(document.content == PAGE for document in kept)
        assert rejected or cut in ends or len(kept) > complete


@pytest.mark.parametrize("damage", ["bytes", "garbage", "length"])
@pytest.mark.parametrize("ending", [".warc", ".warc.gz"])
def test_reading_goes_on_behind_a_damaged_record(tmp_path: Path, ending: str, damage: str) -> None:
    records = list(RECORDS)
    if damage == "length":
        records[2] = records[2].replace(b"Content-Length: ", b"Content-Length: 9")
    records = records if ending == ".warc" else packed(records)
    if damage == "bytes":
        records[2] = records[2][:30] + b"\xff\x00\xff" * 8 + records[2][54:]
    if damage == "garbage":
        records[2] = b"this is no record\r\n" * 9
    kept, rejected = read(tmp_path / f"damaged{ending}", b"".join(records))
    numbers = {document.source[-1] for document in kept if document.source.startswith("http://example.org/")}
    assert {"0", "1", "3", "4", "5"} <= numbers | ({"3"} if damage == "garbage" else set())
    assert {each.reason for each in rejected} <= {"damaged_file", "truncated_record", "empty"}
    assert rejected
    start = int(rejected[0].document.place.partition("@")[2])
    assert start in (len(b"".join(records[:1])), len(b"".join(records[:2])))


def test_what_is_no_page_is_rejected_by_name(tmp_path: Path) -> None:
    records = [
        record("http://e/404", status="404 Not Found"),
        record("http://e/large", b"x" * 5_000),
        record("http://e/empty", b""),
        record("http://e/bomb", gzip.compress(b"\0" * (64 << 20)), headers="Content-Encoding: gzip\r\n"),
        record("http://e/cut", gzip.compress(PAGE)[:40] + b"\xff" * 50, headers="Content-Encoding: gzip\r\n"),
        record("http://e/brotli", b"\x1b\x00\x10", headers="Content-Encoding: br\r\n"),
    ]
    kept, rejected = read(tmp_path / "a.warc", b"".join(records), largest_bytes=4_000)
    assert not kept
    assert [each.reason for each in rejected] == [
        "http_status", "too_large", "empty", "too_large", "damaged_encoding", "damaged_encoding",
    ]  # fmt: skip
    bomb = record("http://e/bomb", gzip.compress(b"\0" * (64 << 20)), headers="Content-Encoding: gzip\r\n")
    assert read(tmp_path / "b.warc", bomb)[1][0].detail.startswith("unpacks to more than")


def test_encodings_are_undone_once_even_if_the_crawler_did_it() -> None:
    chunked = b"%x;x=y\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)
    for content, headers in [
        (gzip.compress(PAGE), {"Content-Encoding": "gzip"}),
        (zlib.compress(PAGE), {"Content-Encoding": "deflate"}),
        (gzip.compress(gzip.compress(PAGE)), {"Content-Encoding": "gzip, gzip"}),
        (chunked, {"Transfer-Encoding": "chunked"}),
        (PAGE, {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}),
        (PAGE, {"Content-Encoding": "br"}),
    ]:
        assert decoded_body(content, headers, limit=1 << 20) == PAGE


def test_texts_of_wet_files_media_types_and_other_files(tmp_path: Path) -> None:
    wet = (
        record("urn:x", b"software: x", kind="warcinfo")
        + record("http://e/1", "Grüße".encode(), kind="conversion")
        + record("http://e/2", kind="metadata")
    )
    kept, rejected = read(tmp_path / "a.wet", wet)
    assert ([document.content.decode() for document in kept], rejected) == (["Grüße"], [])
    kept, rejected = read(tmp_path / "a.warc", RECORDS[0], media_types=("application/pdf",))
    assert (kept, [(each.reason, each.detail) for each in rejected]) == ([], [("media_type", "text/html")])
    kept, rejected = read(tmp_path / "b.warc", b"hello world " * 50)
    assert (kept, [each.reason for each in rejected]) == ([], ["damaged_file"])
    with pytest.raises(InputError, match="nothing in it"):
        ReadWarc(paths=(str(tmp_path / "empty"),)).portions() if (tmp_path / "empty").mkdir() is None else None
    with pytest.raises(InputError, match="input not found"):
        ReadWarc(paths=(str(tmp_path / "missing.warc"),)).portions()


def test_files_in_object_storage_are_read_alike(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/crawl/a.warc.gz", b"".join(packed(RECORDS)))
    system.pipe("/crawl/b.txt", b"no")
    for url in ("memory://crawl", "memory://crawl/*.warc.gz", "memory://crawl/a.warc.gz"):
        reader = ReadWarc(paths=(url,))
        (portion,) = reader.portions()
        assert len([outcome for outcome in reader.read(portion) if isinstance(outcome, Document)]) == 6
    before = portion.fingerprint
    system.pipe("/crawl/a.warc.gz", b"".join(packed(RECORDS[:5])))
    assert reader.portions()[0].fingerprint != before


@pytest.mark.parametrize("size", [b"-a", b"+5", b"5_5", b"0x5", b""])
def test_a_chunk_of_no_size_ends_the_chunks(size: bytes) -> None:
    content = b"5\r\nhello\r\n" + size + b"\r\nrest"
    assert decoded_body(content, {"Transfer-Encoding": "chunked"}, limit=1 << 20) == content

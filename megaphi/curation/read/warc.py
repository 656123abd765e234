"""Pages from WARC files (.warc, .warc.gz, .warc.zst), as Common Crawl and every crawler writes them.

Each response is a document with its URL, media type and the bytes of its page; WET files (`conversion`) have text. A
record that was cut, that is too large or was no success is rejected with its place, and so is what lies between two
records of a damaged file: reading goes on at the next record that can be read. FastWARC reads a cut record without a
word, so lengths are compared here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Annotated, Any, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.read.sources import SourcePortion, find_sources, open_source
from megaphi.curation.step import Portion
from megaphi.errors import InputError

ENDINGS = (".warc", ".warc.gz", ".warc.zst", ".warc.lz4", ".wet", ".wet.gz")
GZIP_MEMBER = b"\x1f\x8b\x08"
PLAIN_RECORD = b"WARC/1."
SEARCHED_BYTES = 1 << 20
CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")
LARGEST_RATIO = 200
"""Bytes of a page for one byte as it was sent, beyond a megabyte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadWarc:
    """Pages from WARC and WET files."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Files, folders, patterns or URLs."""
    media_types: tuple[str, ...] = ()
    """Media types to read, as in `text/html`; records of others are rejected as `media_type`. None named means all."""
    largest_bytes: Annotated[int, Range(minimum=1)] = 32 << 20
    """Larger records are rejected as `too_large`, unread."""
    headers: tuple[str, ...] = ("content-language", "last-modified", "x-robots-tag")
    """HTTP headers to keep in the metadata."""

    def portions(self) -> Sequence[Portion]:
        """A portion for every file. Raises InputError for an input that is missing."""
        return find_sources(self.paths, wanted=lambda name: name.lower().endswith(ENDINGS))

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The records of a file, in order. Raises InputError where FastWARC is not installed."""
        assert isinstance(portion, SourcePortion)
        with open_source(portion) as file:
            start: int | None = 0
            while start is not None:
                start = yield from self._records(file, start, portion)

    def _records(self, file: IO[bytes], start: int, portion: SourcePortion) -> Generator[Outcome, None, int | None]:
        """The records from a byte on; returns the byte at which to go on behind damage, None at the end."""
        try:
            from fastwarc.warc import ArchiveIterator, WarcRecordType
        except ImportError:
            raise InputError("reading WARC files needs fastwarc: pip install 'megaphi[curation]'") from None
        pages = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
        file.seek(start)
        place = None
        try:
            stream: Any = _Stream(file)
            for record in ArchiveIterator(stream, parse_http=True, fsspec_args=False):
                place = start + record.stream_pos
                outcome = None
                if record.record_type in pages:
                    outcome = self._outcome(record, f"{portion.source}@{place}")
                elif record.record_type in (WarcRecordType.unknown, WarcRecordType.no_type):
                    outcome = _damaged(portion, place, "a record of no known type")
                if outcome is not None:
                    yield outcome
                if isinstance(outcome, Rejected) and outcome.reason == "truncated_record":
                    return _next_record(file, place + 1)
        except OSError as error:
            following = _next_record(file, (start if place is None else place) + 1)
            upto = "the end" if following is None else f"byte {following:,}"
            yield _damaged(portion, start if place is None else place, f"from here up to {upto}: {error}")
            return following
        end = start if place is None else _end_of_record(file, place)
        if end is not None and end < portion.size_bytes:
            yield _damaged(portion, end, f"{portion.size_bytes - end:,} bytes are no record")
        return None

    def _outcome(self, record: Any, place: str) -> Outcome | None:
        headers = record.headers
        url = headers.get("WARC-Target-URI") or ""
        http = record.http_headers
        media_type = (http.get("Content-Type") if http is not None else headers.get("Content-Type")) or ""
        plain = media_type.partition(";")[0].strip().lower()
        identity = (headers.get("WARC-Record-ID") or place).strip("<>")
        document = Document(
            id=identity,
            source=url or place,
            place=place,
            media_type=media_type,
            metadata=self._metadata(record, url),
        )
        if self.media_types and plain not in self.media_types:
            return Rejected(document, "media_type", plain[:100] or "none given")
        status = http.status_code if http is not None else None
        if status is not None and status != 200:
            return Rejected(document, "http_status", str(status))
        length = record.content_length
        if length > self.largest_bytes:
            return Rejected(document, "too_large", f"{length:,} bytes, more than {self.largest_bytes:,}")
        content = record.reader.read()
        if len(content) < length:
            return Rejected(document, "truncated_record", f"{len(content):,} of {length:,} bytes")
        if http is not None:
            try:
                content = decoded_body(content, http, limit=self.largest_bytes)
            except ValueError as error:
                return Rejected(document, "damaged_encoding", str(error)[:200])
        if not content:
            return Rejected(document, "empty")
        return Document(
            id=identity,
            source=document.source,
            place=place,
            content=content,
            media_type=media_type,
            metadata=document.metadata,
        )

    def _metadata(self, record: Any, url: str) -> dict[str, Any]:
        http = record.http_headers
        found = {"url": url, "date": record.headers.get("WARC-Date")}
        kept = {name: http.get(name) for name in self.headers} if http is not None else {}
        named = {"http_headers": {name.lower(): value for name, value in kept.items() if value}}
        return {name: value for name, value in {**found, **named}.items() if value}


def _damaged(portion: SourcePortion, place: int, detail: str) -> Rejected:
    where = f"{portion.source}@{place}"
    return Rejected(Document(id=where, source=portion.source, place=where), "damaged_file", detail[:200])


class _Stream:
    """A file from its present place on, as bytes that are counted from there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._start = file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def tell(self) -> int:
        return self._file.tell() - self._start

    def close(self) -> None:
        """The file belongs to somebody else."""


def _end_of_record(file: IO[bytes], start: int) -> int | None:
    """The byte behind the record that begins at `start`; None where that is not known (zstandard, a damaged record).

    FastWARC ends without a word where a record's header is cut; so the end of the last one is looked at.
    """
    file.seek(start)
    block = file.read(SEARCHED_BYTES)
    if block.startswith(GZIP_MEMBER):
        member, read = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), 0
        while block and not member.eof:
            read += len(block)
            try:
                member.decompress(block, SEARCHED_BYTES)
                while member.unconsumed_tail and not member.eof:
                    member.decompress(member.unconsumed_tail, SEARCHED_BYTES)
            except zlib.error:
                return None
            block = b"" if member.eof else file.read(SEARCHED_BYTES)
        return start + read - len(member.unused_data) if member.eof else None
    head = block.partition(b"\r\n\r\n")[0]
    length = re.search(rb"(?i)\r\nContent-Length:\s*(\d{1,18})\s*(?:\r\n|$)", head)
    if not block.startswith(PLAIN_RECORD) or length is None:
        return None
    return start + len(head) + 4 + int(length[1]) + 4


def _next_record(file: IO[bytes], start: int) -> int | None:
    """The byte from `start` on at which a record may begin; None if there is none."""
    file.seek(0)
    mark = GZIP_MEMBER if file.read(3) == GZIP_MEMBER else PLAIN_RECORD
    file.seek(start)
    held = b""
    while block := file.read(SEARCHED_BYTES):
        held += block
        found = held.find(mark)
        if found >= 0:
            return start + found
        start += len(held) - len(mark) + 1
        held = held[1 - len(mark) :]
    return None


def decoded_body(content: bytes, http: Any, *, limit: int) -> bytes:
    """A page without the encodings in which it was sent.

    Crawlers often leave the header of an encoding that they have undone, so content that does not look like it stays.

    Raises:
        ValueError: it is damaged, larger than `limit`, or in an encoding that is not known here.
    """
    if "chunked" in (http.get("Transfer-Encoding") or "").lower():
        content = _without_chunks(content)
    for encoding in reversed([each.strip() for each in (http.get("Content-Encoding") or "").lower().split(",")]):
        if encoding in ("gzip", "x-gzip") and content.startswith(b"\x1f\x8b"):
            content = _inflated(content, 16 + zlib.MAX_WBITS, limit)
        elif encoding == "deflate" and content and content[0] & 0x0F == 8:
            content = _inflated(content, zlib.MAX_WBITS, limit)
        elif encoding in ("br", "zstd") and b"<" not in content[:200]:
            raise ValueError(f"content encoding {encoding}")
    return content


def _inflated(content: bytes, window: int, limit: int) -> bytes:
    most = min(limit, (1 << 20) + LARGEST_RATIO * len(content))
    inflater = zlib.decompressobj(wbits=window)
    try:
        page = inflater.decompress(content, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof and len(page) <= most:
        raise ValueError("it is cut")
    if len(page) > most:
        raise ValueError(f"unpacks to more than {most:,} bytes")
    return page


def _without_chunks(content: bytes) -> bytes:
    """The content of chunks; as it is, if it is none."""
    parts, place = [], 0
    while True:
        end = content.find(b"\r\n", place, place + 40)
        size = content[place:end].partition(b";")[0].strip() if end >= 0 else b""
        if not CHUNK_SIZE.fullmatch(size):  # `int` would take a sign, and go backwards for ever
            return content
        length = int(size, 16)
        if length == 0:
            return b"".join(parts)
        parts.append(content[end + 2 : end + 2 + length])
        place = end + 2 + length + 2
        if place > len(content):
            return content

"""Readers of curation: JSON lines, Parquet, WARC, files, TeX folders, code: records come out or are rejected.

A damaged file may refuse itself when its portions are listed; once reading has begun, every fault is a rejection.
"""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from tests.fuzz.structured import (
    gzip_content,
    json_line,
    parquet_footer,
    parquet_page,
    zip_member,
    zipped,
    zstandard_content,
)
from tests.fuzz.target import Target
from tests.fuzz.targets.text_files import (
    LINES,
    PACKED,
    PARQUET_BYTES,
    TOKENS,
    pack_zstandard,
    parquet_bombs,
    parquet_files,
)

PAGE = b"<html><body><h1>Title</h1><p>%s</p></body></html>" % (b"A sentence of a page. " * 20)
WARC_TOKENS = (b"WARC/1.0\r\n", b"Content-Length: ", b"Content-Length: 99999999999999999999\r\n", b"\r\n\r\n",
               b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"WARC-Type: response\r\n",
               b"HTTP/1.1 200 OK\r\n", b"WARC-Record-ID: <\xff>\r\n", b"ffffffff\r\n")  # fmt: skip


def read_all(reader: Any) -> str | None:
    """None if documents came out, else the commonest reason of rejection."""
    from megaphi.curation.document import Document

    portions = reader.portions()
    reasons: Counter[str] = Counter()
    kept = 0
    for portion in portions:
        try:
            for outcome in reader.read(portion):
                if isinstance(outcome, Document):
                    kept += 1
                else:
                    reasons[outcome.reason] += 1
        except InputError as error:
            raise AssertionError(f"refused while it was read: {error}") from error
    return None if kept else reasons.most_common(1)[0][0] if reasons else "nothing"


def read_json_lines(content: bytes) -> str | None:
    from megaphi.curation.read.json_lines import ReadJsonLines

    Path("input.jsonl").write_bytes(content)
    return read_all(ReadJsonLines(paths=("input.jsonl",), piece_bytes=max(4_000, len(content) // 8)))


def read_parquet(content: bytes) -> str | None:
    from megaphi.curation.read.parquet import ReadParquet

    Path("input.parquet").write_bytes(content)
    return read_all(ReadParquet(paths=("input.parquet",)))


def read_warc(content: bytes) -> str | None:
    from megaphi.curation.read.warc import ReadWarc

    Path("input.warc").write_bytes(content)
    return read_all(ReadWarc(paths=("input.warc",), largest_bytes=1 << 20))


def read_folders(content: bytes) -> str | None:
    """A ZIP file as a folder of TeX projects and as a repository of code; its names must not lead out of it."""
    import io
    import zipfile

    from megaphi.curation.read.code import ReadCode
    from megaphi.curation.read.files import ReadFiles, ReadTexFolders

    root = Path("root")
    shutil.rmtree(root, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist()[:50]:
                name = member.filename.replace("\0", "").replace("..", "")[-200:].strip("/") or "x"
                path = root / "one" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member)[: 1 << 20])
    except Exception:  # no folder can be made of it
        return "no folder"
    reasons = [read_all(reader(paths=("root",))) for reader in (ReadCode, ReadTexFolders, ReadFiles)]
    return None if None in reasons else reasons[0]


def warc_files() -> Sequence[bytes]:
    from tests.curation.read.test_warc import record

    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)
    records = [
        record("http://example.org/1", PAGE),
        record("http://example.org/2", gzip.compress(PAGE, mtime=0), headers="Content-Encoding: gzip\r\n"),
        record("http://example.org/3", chunked, headers="Transfer-Encoding: chunked\r\n"),
        record("http://example.org/4", PAGE, status="404 Not Found"),
        record("http://example.org/5", b"Words.", kind="conversion"),
    ]
    return [
        b"".join(records),
        b"".join(gzip.compress(each, mtime=0) for each in records),
        pack_zstandard(records[0]) * 3,
    ]


def warc_bombs() -> Sequence[bytes]:
    from tests.curation.read.test_warc import record

    zeros = bytes(512 << 20)
    inner = record("http://example.org/1", gzip.compress(zeros, mtime=0), headers="Content-Encoding: gzip\r\n")
    return [inner, gzip.compress(record("http://example.org/2", zeros), mtime=0), gzip.compress(zeros, mtime=0)]


def folders() -> Sequence[bytes]:
    files = [
        ("main.tex", b"\\documentclass{article}\\begin{document}\\input{part}Words $x$.\\end{document}"),
        ("part.tex", b"More words."),
        ("code/run", b"#!/usr/bin/env python3\nprint(1)\n"),
        ("code/main.py", b"# SPDX-License-Identifier: MIT\nprint(1)\n"),
        ("LICENSE", b"Permission is hereby granted, free of charge, to any person obtaining a copy"),
        ("page.html", PAGE),
    ]
    return [zipped(files)]


TARGETS = (
    Target(
        name="read json lines", run=read_json_lines, seeds=lambda: [LINES, LINES[:3_000]], mutators=(json_line,),
        tokens=TOKENS, suffixes=(".jsonl",), memory_bytes=256 << 20,
    ),
    Target(
        name="read json lines packed", run=read_json_lines, seeds=lambda: [gzip.compress(LINES), pack_zstandard(LINES)],
        mutators=(gzip_content(json_line), zstandard_content(json_line)), tokens=PACKED, memory_bytes=1 << 30,
    ),
    Target(
        name="read parquet", run=read_parquet, seeds=parquet_files, crafted=parquet_bombs, memory_bytes=PARQUET_BYTES,
        mutators=(parquet_footer, parquet_page),
        framed=0.8,
        tokens=(b"PAR1", b"\x15\xfe\xff\xff\xff\x0f"), suffixes=(".parquet",), imports=("pyarrow.parquet",),
    ),
    Target(
        name="read warc", run=read_warc, seeds=warc_files, crafted=warc_bombs,
        mutators=(gzip_content(), zstandard_content()),
        tokens=WARC_TOKENS, suffixes=(".warc", ".warc.gz"), memory_bytes=256 << 20,
    ),
    Target(name="read folders", run=read_folders, seeds=folders, mutators=(zip_member(),), framed=0.9,
        memory_bytes=256 << 20),
)  # fmt: skip

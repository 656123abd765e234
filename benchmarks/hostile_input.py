"""Hostile inputs in their full size through the readers and extractors of curation: outcome, seconds and peak memory.

Each case is made in a temporary folder, read in a process of its own by the reader and, where it gives a document, the
step `Extract` with its defaults. Memory is the largest resident set of that process or of one that it started; a bomb
is 1 GiB of content in little. `python -m tests.fuzz` tries many small ones; these are the few large.

    python benchmarks/hostile_input.py --write
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from results_file import append_rows

from megaphi.checkpoint.versions import short_commit

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the file beside this one, by its full name

RESULTS = Path(__file__).parent / "results" / "hostile_input.csv"
GIB = 1 << 30
BLOCK = b"a" * (1 << 20)
ENTITIES = b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>%s]>" % b"".join(
    b"<!ENTITY %c '%s'>" % (98 + level, b"&%c;" % (97 + level) * 10) for level in range(9)
)
Case = tuple[str, Callable[[], Iterator[bytes]], str]
"""Name of the file, its content in blocks, the reader."""


def long_line() -> Iterator[bytes]:
    """A line of JSON of 1 GiB between two good ones."""
    yield b'{"text": "First."}\n{"text": "'
    yield from (BLOCK for _ in range(GIB // len(BLOCK)))
    yield b'"}\n{"text": "Last."}\n'


def packed(blocks: Callable[[], Iterator[bytes]], packing: str) -> Iterator[bytes]:
    if packing == "zst":
        import zstandard

        pack: Any = zstandard.ZstdCompressor(3).compressobj()
        yield from (pack.compress(block) for block in blocks())
        yield pack.flush()
        return
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as archive:
        for block in blocks():
            archive.write(block)
    yield file.getvalue()


def warc_page() -> Iterator[bytes]:
    """A page of 1 GiB in a record, and a good one behind it."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    for size in (GIB, len(BLOCK)):
        yield (
            b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:%d>\r\nWARC-Target-URI: http://a/%d\r\n"
            b"Content-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n"
            % (size, size, size + len(http))
        ) + http
        yield from (BLOCK for _ in range(size // len(BLOCK)))
        yield b"\r\n\r\n"


def zip_bomb(*names: bytes) -> Iterator[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            with archive.open(name.decode(), "w", force_zip64=True) as member:
                for _ in range(GIB // len(BLOCK)):
                    member.write(BLOCK)
    yield file.getvalue()


def climbing_tar() -> Iterator[bytes]:
    """A TeX project with members that climb out of it, absolute ones and links."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name in ("../../../../tmp/climbed.tex", "/tmp/absolute.tex", "main.tex"):
            content = b"\\documentclass{article}\\begin{document}\\input{/etc/passwd}\\input{../x}Words.\\end{document}"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.tex")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    yield file.getvalue()


def parquet_bomb() -> Iterator[bytes]:
    """A value of 4 MiB, which 256 rows have."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 256, pyarrow.int32()), ["a" * (4 << 20)])
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": text}), file, compression="zstd")
    yield file.getvalue()


def entities(begin: bytes, end: bytes) -> Iterator[bytes]:
    """A text of 10^10 characters in nine levels of entities."""
    yield ENTITIES + begin + b"&j;" + end


def repeated(begin: bytes, part: bytes, times: int, end: bytes = b"") -> Iterator[bytes]:
    yield begin + part * times + end


DEEP = 1_000_000
TEX = b"\\documentclass{a}\\begin{document}"
LISTS = (b'{"text": "a", "b": [', b"[],", 17 << 20, b"0]}")
JATS = (b"<article><body><p>", b"</p></body></article>")
XHTML = (b"<html><body><p>", b"</p></body></html>")
CASES: dict[str, Case] = {
    "JSON line of 1 GiB": ("a.jsonl", long_line, "ReadJsonLines"),
    "the same, gzip": ("a.jsonl.gz", lambda: packed(long_line, "gz"), "ReadJsonLines"),
    "the same, zstandard": ("a.jsonl.zst", lambda: packed(long_line, "zst"), "ReadJsonLines"),
    "17 M empty lists in a line": ("a.jsonl", lambda: repeated(*LISTS), "ReadJsonLines"),
    "value of 4 MiB in 256 rows of Parquet": ("a.parquet", parquet_bomb, "ReadParquet"),
    "page of 1 GiB in a WARC": ("a.warc", warc_page, "ReadWarc"),
    "the same, gzip in one member": ("a.warc.gz", lambda: packed(warc_page, "gz"), "ReadWarc"),
    "HTML file of 1 GiB": ("a.html", lambda: (BLOCK for _ in range(1024)), "ReadFiles"),
    "TeX, gzip of 1 GiB": ("a.tex.gz", lambda: packed(lambda: (BLOCK for _ in range(1024)), "gz"), "ReadFiles"),
    "ePub with a member of 1 GiB": ("a.epub", lambda: zip_bomb(b"mimetype", b"a.xhtml"), "ReadFiles"),
    "DOCX with a member of 1 GiB": ("a.docx", lambda: zip_bomb(b"word/document.xml"), "ReadFiles"),
    "entities, 10^10 characters, JATS": ("a.nxml", lambda: entities(*JATS), "ReadFiles"),
    "entities, 10^10 characters, XHTML": ("a.xhtml", lambda: entities(*XHTML), "ReadFiles"),
    "a million elements deep, HTML": ("a.html", lambda: repeated(b"", b"<div>", DEEP), "ReadFiles"),
    "a million elements deep, JATS": ("a.nxml", lambda: repeated(b"<article>", b"<sec>", DEEP), "ReadFiles"),
    "a million braces deep, TeX": ("a.tex", lambda: repeated(TEX, b"{", DEEP), "ReadFiles"),
    "a million brackets deep, notebook": ("a.ipynb", lambda: repeated(b'{"cells": ', b"[", DEEP), "ReadFiles"),
    "paths that climb, absolute, links": ("a.tar.gz", climbing_tar, "ReadFiles"),
    "16 MiB of NUL bytes, text": ("a.txt", lambda: repeated(b"", b"\0", 16 << 20), "ReadFiles"),
    "16 MiB of no UTF-8, HTML": ("a.html", lambda: repeated(b"<p>", b"\xff\xfe\xc3\x28", 4 << 20), "ReadFiles"),
}


def outcome_of(path: Path, reader_name: str) -> str:
    """Documents that came out, and the reasons of those that did not."""
    from megaphi.curation.document import Document
    from megaphi.curation.extract.extract import Extract
    from megaphi.curation.read import files, json_lines, parquet, warc
    from megaphi.curation.step import StepContext

    modules = {"ReadFiles": files, "ReadJsonLines": json_lines, "ReadParquet": parquet, "ReadWarc": warc}
    reader = getattr(modules[reader_name], reader_name)(paths=(str(path),))
    extract = Extract().open(StepContext(folder=Path(), open_sampler=lambda name: None))  # type: ignore[arg-type,return-value]
    counts: Counter[str] = Counter()
    for portion in reader.portions():
        for found in reader.read(portion):
            final = extract(found) if isinstance(found, Document) else found
            counts[getattr(final, "reason", "document")] += 1
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def measured(name: str) -> dict[str, Any]:
    """One case, in a process of its own."""
    file_name, blocks, reader = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_name
        with path.open("wb") as file:
            file.writelines(blocks())
        size = path.stat().st_size
        command = [sys.executable, __file__, "--read", str(path), reader]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"case": name, "file_bytes": size, **json.loads(done.stdout.splitlines()[-1])}


def read(path: Path, reader: str) -> None:
    """Read a file in this process and print what came of it."""
    began = time.monotonic()
    outcome = outcome_of(path, reader)
    seconds = time.monotonic() - began
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)  # extractors; with the end of each comes the peak of what it started
        os.waitpid(int(child), 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, used.ru_maxrss) >> 10
    print(json.dumps({"outcome": outcome, "seconds": round(seconds, 2), "peak_mib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--write", action="store_true", help=f"append to benchmarks/results/{RESULTS.name}")
    parser.add_argument("--read", nargs=2, metavar=("FILE", "READER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read(Path(arguments.read[0]), arguments.read[1])
        return
    for name in arguments.cases:
        row = measured(name)
        print(*row.values(), sep=" | ", flush=True)
        if arguments.write:
            append({"date": date.today().isoformat(), "commit": short_commit(), **row})


def append(row: dict[str, Any]) -> None:
    append_rows(RESULTS, list(row), [row])


if __name__ == "__main__":
    main()

"""Damaged and hostile files through the extractors, for as long as one likes: crashes, the slowest, the largest.

Real files of the folder are mutated (bytes and tags deleted, doubled, moved; deep nesting, long attributes, entities,
broken encodings put in) and read by the step `Extract` in its own process with its limits. A finding is an exception in
the step, a reason that says that the child crashed, or a file beyond the limits in time or memory. The seed makes a
run repeatable; files that crash the child are written to `--keep`.

    python benchmarks/extract_fuzz.py FOLDER --seconds 600 --suffixes .html .tex
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

from megaphi.curation.document import Document, Rejected
from megaphi.curation.extract.extract import Extract
from megaphi.curation.step import StepContext
from megaphi.errors import InputError

LARGEST_SEED = 400_000
LARGEST_MUTANT = 4_000_000
FINDINGS = ("crashed", "out_of_memory", "too_slow")
PIECES = (
    b"\0", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", "\u202e\ufeff\U000e0001".encode(), b"&#x110000;&#0;&#xD800;",
    b"<div>" * 300, b"<b><i>" * 200, b"</p>" * 200, b"<table><tr><td>" * 60, b"<ul><li>" * 80, b"<math><mfrac>" * 60,
    b"<svg><foreignObject>" * 20, b"<!--" * 50, b"<![CDATA[", b"<script>", b"</script>", b"<plaintext>", b"<pre>\n\n",
    b"<a href='" + b"x" * 50_000 + b"'>", b"<img src='data:image/png;base64," + b"QUJD" * 20_000 + b"'>",
    b"<td colspan=100000 rowspan=100000>", b"<ol start=-9999999999999>", b"&amp;" * 500, b"\\(" * 300, b"$$" * 200,
    b"<!DOCTYPE x [<!ENTITY a '" + b"b" * 100 + b"'><!ENTITY c '" + b"&a;" * 100 + b"'>]>", b"<frameset>", b"\r" * 100,
    "\u27e6\u2801\u2801\u2801\u27e7".encode(), b"\\def\\x{\\x\\x}\\x", b"\\input{../../../etc/passwd}", b"{" * 2000,
    b"\\begin{align}" * 100,
)  # fmt: skip


def mutant(seeds: list[bytes], draw: random.Random) -> bytes:
    """One damaged file."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 2, 4, 16, 64))):
        at = draw.randrange(len(content) + 1)
        length = int(draw.paretovariate(0.5)) % 20_000
        match draw.randrange(6):
            case 0:
                del content[at : at + length]
            case 1:
                content[at:at] = draw.choice(PIECES)
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                other = draw.choice(seeds)
                start = draw.randrange(len(other) + 1)
                content[at:at] = other[start : start + length]
            case 4 if content:
                content[min(at, len(content) - 1)] = draw.randrange(256)
            case _:
                del content[draw.randrange(len(content) + 1) :]
        if not content:
            content += b"x"
    return bytes(content[:LARGEST_MUTANT])


def seeds_of(folder: Path, suffixes: list[str], draw: random.Random) -> dict[str, list[bytes]]:
    """Contents of real files by suffix, 200 each."""
    found: dict[str, list[bytes]] = {}
    for suffix in suffixes:
        paths = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())
        paths = [path for path in paths if path.stat().st_size <= LARGEST_SEED]
        found[suffix] = [path.read_bytes() for path in draw.sample(paths, min(200, len(paths)))]
        assert found[suffix], f"no files {suffix} in {folder}"
    return found


def largest_memory() -> int:
    """MiB of the processes that read files, at their largest."""
    children = [*Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    lines = [line for child in children for line in Path(f"/proc/{child}/status").read_text().splitlines()]
    living = max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)
    return max(living, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) >> 10


def no_sampler(name: str) -> NoReturn:
    raise InputError(f"extractors ask no model: {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real files, in any folders below")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--suffixes", nargs="+", default=[".html"])
    parser.add_argument("--engine", default="trafilatura")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that crash an extractor")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    seeds = seeds_of(arguments.folder, arguments.suffixes, draw)
    read = Extract(engine=arguments.engine, cpu_seconds=20.0).open(StepContext(folder=Path(), open_sampler=no_sampler))
    reasons: Counter[str] = Counter()
    slowest: list[tuple[float, int, str]] = []
    longest = 0
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        suffix = draw.choice(arguments.suffixes)
        content = mutant(seeds[suffix], draw)
        name = hashlib.sha256(content).hexdigest()[:12] + suffix
        media_type = {".html": "text/html", ".tex": "application/x-tex"}.get(suffix, "")
        began = time.monotonic()
        outcome = read(Document(id=name, source=name, place=name, content=content, media_type=media_type))
        slowest = sorted([*slowest, (time.monotonic() - began, len(content), name)], reverse=True)[:5]
        reason = outcome.reason if isinstance(outcome, Rejected) else "text"
        if isinstance(outcome, Document):
            longest = max(longest, len(outcome.text) // max(1, len(content)))
        reasons[f"{suffix} {reason}"] += 1
        if isinstance(outcome, Rejected) and reason in (*FINDINGS, "malformed"):
            print(reason, outcome.detail, name, flush=True)
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / name).write_bytes(content)
    print("outcomes", dict(reasons.most_common()))
    print("slowest (seconds, bytes, name)", [(round(seconds, 2), size, name) for seconds, size, name in slowest])
    print("largest memory of a process in use", f"{largest_memory()} MiB")
    print("largest growth of a text over its file", f"{longest}x")


if __name__ == "__main__":
    main()

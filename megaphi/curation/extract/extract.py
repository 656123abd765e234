"""The step `Extract`: the text of a document, by the extractor of its format.

Which extractor that is depends on the media type that the server or the file's name gave and on the first bytes
(`media_type.py`). Extractors run in a process of their own with limits on memory and time (`bounded.py`). What cannot
be read is a rejection with one of few reasons; a document that has text already goes through as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.extract.bounded import Bounded
from megaphi.curation.extract.found import Extractor, NotExtracted
from megaphi.curation.extract.media_type import DOCX, EPUB, GZIP, JATS, NOTEBOOK, PDF, TEX, media_type_of
from megaphi.curation.step import OfOne, StepContext
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Extract:
    """Text from HTML and other formats; rejects what has none."""

    VERSION: ClassVar[int] = 1

    engine: Literal["trafilatura", "resiliparse"] = "trafilatura"
    """Library that decides which blocks of a page are its content: trafilatura is better, resiliparse is faster."""
    largest_bytes: Annotated[int, Range(minimum=1)] = 32 << 20
    """Larger files are rejected as `too_large`."""
    deepest: Annotated[int, Range(minimum=16, maximum=2000)] = 256
    """HTML with elements nested deeper is rejected as `too_deep`."""
    cpu_seconds: Annotated[float, Range(minimum=0.1)] = 30.0
    """A file that takes longer is rejected as `too_slow`."""
    memory_bytes: Annotated[int, Range(minimum=256 << 20)] = 2 << 30
    """Address space of the process that reads a file."""

    def open(self, context: StepContext) -> OfOne:
        del context
        check_libraries()
        table = extractors(self)
        return lambda document: extracted(document, self, table)


LIBRARIES = ("lxml", "lxml_html_clean", "resiliparse", "trafilatura", "pypandoc", "pylatexenc", "pypdfium2")


def check_libraries() -> None:
    """Raise InputError unless the libraries of all formats are installed: a page must not be lost for want of one."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError(f"reading files needs {', '.join(missing)}: pip install 'megaphi[curation]'")


def extractors(step: Extract, *, html: str = "html.page:extract_html") -> Mapping[str, Extractor]:
    """The extractor of each media type; `html`: the function for pages, below this package."""

    def bounded(function: str, **options: object) -> Extractor:
        return Bounded(
            f"megaphi.curation.extract.{function}", step.memory_bytes, step.cpu_seconds, tuple(options.items())
        )

    pages = bounded(html, engine=step.engine, deepest=step.deepest)
    plain = bounded("plain:extract_plain")
    tex = bounded("tex.convert:extract_tex")
    return {
        "text/html": pages,
        "application/xhtml+xml": pages,
        "text/plain": plain,
        "text/markdown": plain,
        **dict.fromkeys((TEX, GZIP, "application/x-tar", "application/x-eprint-tar", "application/zip"), tex),
        **dict.fromkeys(("text/x-tex", "application/x-latex", "text/x-latex"), tex),
        JATS: bounded("pandoc.jats:extract_jats"),
        NOTEBOOK: bounded("notebook:extract_notebook"),
        EPUB: bounded("pandoc.epub:extract_epub"),
        DOCX: bounded("pandoc.docx:extract_docx"),
        PDF: bounded("pdf:extract_pdf"),
    }


def extracted(document: Document, step: Extract, table: Mapping[str, Extractor]) -> Outcome:
    """The document with its text, or its rejection; one that has text already as it is."""
    content = document.content
    if not content:
        return document if document.text.strip() else Rejected(document, "empty")
    if len(content) > step.largest_bytes:
        return Rejected(document, "too_large", f"{len(content):,} bytes, more than {step.largest_bytes:,}")
    media_type = media_type_of(content, document.media_type)
    extractor = table.get(media_type)
    if extractor is None:
        return Rejected(document, "unknown_format", media_type)
    try:
        found = extractor(content, media_type=document.media_type or media_type, files=document.files)
    except NotExtracted as error:
        return Rejected(document, error.reason, error.detail)
    if not found.text.strip():
        return Rejected(document, "empty")
    return document.with_text(found.text, **found.metadata)

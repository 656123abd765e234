"""PDF: the text of its pages, lines joined into paragraphs, what stands on every page left out.

A PDF holds glyphs at places, not sentences, so formulas come out as the characters that they are drawn with; where the
source exists, take that. Words cut at the end of a line are joined, headers and footers that repeat are left out, and a
file whose glyphs have no characters (scans, fonts without a table) is refused by name. Runs in a child with limits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from megaphi.curation.extract.found import Extracted, NotExtracted

LARGEST_PDF = 256 << 20
MOST_PAGES = 5_000
REPEATED_SHARE = 0.4
"""A first or last line that stands on this share of the pages (numbers in it aside) belongs to the layout."""
LEAST_PER_PAGE = 20
"""Characters on an average page, below which the pages are pictures."""
_EDGE_LINES = 2
_HYPHENATED = re.compile(r"(?<=[a-z]{2})[-\u00ad]\n(?=[a-z])")
_LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"})


def extract_pdf(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of a PDF. Raises NotExtracted."""
    del media_type, files
    import pypdfium2

    if len(content) > LARGEST_PDF:
        raise NotExtracted("too_large", f"{len(content):,} bytes")
    try:
        file = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower() or "security" in str(error).lower()
        raise NotExtracted("encrypted" if encrypted else "malformed", str(error)[:200]) from None
    if len(file) > MOST_PAGES:
        raise NotExtracted("too_large", f"{len(file):,} pages, more than {MOST_PAGES:,}")
    pages: list[str] = []
    broken = 0
    for number in range(len(file)):
        try:
            pages.append(file[number].get_textpage().get_text_bounded())
        except pypdfium2.PdfiumError:
            broken += 1
    if broken and not pages:
        raise NotExtracted("malformed", f"none of {broken} pages can be read")
    text = text_of_pages(pages)
    if len(text) < LEAST_PER_PAGE * len(pages) or not text.strip():
        raise NotExtracted("no_text_layer", f"{len(text):,} characters on {len(pages):,} pages")
    title = (file.get_metadata_dict().get("Title") or "").strip()
    return Extracted(text, {"pages": len(pages), "broken_pages": broken, **({"title": title} if title else {})})


def text_of_pages(pages: Sequence[str]) -> str:
    """The running text of pages of lines."""
    lines_of = [_lines(page) for page in pages]
    repeated = _repeated(lines_of)
    blocks = [_paragraphs([line for line in lines if _pattern(line) not in repeated]) for lines in lines_of]
    text = "\n".join(block for block in blocks if block)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _lines(page: str) -> list[str]:
    """The lines of a page; words that pdfium knows to be cut at the end of a line are whole."""
    text = page.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[\x02\ufffe\u00ad]\n?", "", text).translate(_LIGATURES)
    text = re.sub(r"[\x00-\x08\x0b-\x1f\ufffd\ud800-\udfff]", " ", text)
    return [line.rstrip() for line in _HYPHENATED.sub("", text).split("\n")]


def _pattern(line: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", line.strip())


def _repeated(lines_of: Sequence[Sequence[str]]) -> set[str]:
    """Patterns of lines at the edges of pages that belong to the layout: page numbers, headers."""
    if len(lines_of) < 3:
        return {"#"}
    seen: Counter[str] = Counter()
    for lines in lines_of:
        written = [line for line in lines if line.strip()]
        seen.update({_pattern(line) for line in (*written[:_EDGE_LINES], *written[-_EDGE_LINES:])})
    return {pattern for pattern, count in seen.items() if count >= max(3, REPEATED_SHARE * len(lines_of))} | {"#"}


def _paragraphs(lines: Sequence[str]) -> str:
    """Lines joined where a line is full and the next goes on in the middle of a sentence."""
    lengths = sorted(len(line) for line in lines if line.strip())
    full = 0.75 * lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    joined: list[str] = []
    last = ""
    for line in lines:
        goes_on = line[:1].islower() or not re.search(r"[.:!?;]$", last)
        if last and line.strip() and len(last) >= full and goes_on and not line.startswith((" ", "\t", "•", "-")):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
        last = line
    return "\n".join(joined)

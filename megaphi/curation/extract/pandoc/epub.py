"""ePub, read by pandoc: the chapters in reading order, whole; MathML becomes TeX, and so do pictures of formulas.

A book has no navigation and no advertisements to find, so its pages do not go through the extractor of web pages, which
would leave short chapters out. Encrypted books are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from megaphi.curation.extract.archive import unpack
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.pandoc.docx import check_xml
from megaphi.curation.extract.pandoc.run import extracted

_FORMULA = re.compile(rb"<(?:m:|mml:)?math[\s>]")
_LANGUAGE = re.compile(rb"<dc:language[^>]*>\s*([A-Za-z-]{2,20})\s*<")
_PAGES = (".xhtml", ".html", ".htm")


def extract_epub(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of a book. Raises NotExtracted."""
    del media_type, files
    members = unpack(content).files
    if "META-INF/container.xml" not in members:
        raise NotExtracted("malformed", "no META-INF/container.xml")
    keys = members.get("META-INF/encryption.xml", b"")
    if any(ending.encode() in keys for ending in _PAGES) or "META-INF/rights.xml" in members:
        raise NotExtracted("encrypted", "digital rights management")
    check_xml(members)
    formulas = sum(len(_FORMULA.findall(data)) for name, data in members.items() if name.lower().endswith(_PAGES))
    packages = (found[1].decode() for data in members.values() if (found := _LANGUAGE.search(data, 0, 65_536)))
    language = next(packages, None)
    return extracted(content, "epub", formulas=formulas, found={"declared_language": language} if language else {})

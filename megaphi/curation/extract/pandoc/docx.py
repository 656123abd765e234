"""DOCX, read by pandoc: headings, lists, tables, notes; equations (OMML) become TeX.

The archive is checked before pandoc sees it: it unpacks within limits, and its XML declares no entities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from megaphi.curation.extract.archive import unpack
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.pandoc.run import extracted

_OLE = b"\xd0\xcf\x11\xe0"
"""Beginning of the container that Word puts a file with a password into."""
_EQUATION = re.compile(rb"<m:oMath[\s>]")
DECLARES = re.compile(rb"<!(?:DOCTYPE[^>]*\[|ENTITY)")


def extract_docx(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of a DOCX file. Raises NotExtracted."""
    del media_type, files
    if content.startswith(_OLE):
        raise NotExtracted("encrypted", "an OLE container: a password, or a .doc")
    members = unpack(content).files
    main = next((data for name, data in members.items() if name.endswith("word/document.xml")), None)
    if main is None:
        raise NotExtracted("malformed", "no word/document.xml")
    check_xml(members)
    return extracted(content, "docx", formulas=len(_EQUATION.findall(main)), found={})


def check_xml(members: Mapping[str, bytes]) -> None:
    """Refuse XML that declares entities, which no writer of these formats does. Raises NotExtracted."""
    for name, data in members.items():
        if name.endswith((".xml", ".rels", ".opf", ".ncx")) and DECLARES.search(data, 0, 65_536):
            raise NotExtracted("malformed", f"{name[:80]} declares XML entities")

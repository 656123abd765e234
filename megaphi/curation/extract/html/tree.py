"""HTML as a tree of lxml, with limits on what a hostile page may make it do."""

from __future__ import annotations

from typing import Any

import lxml.etree as etree
from lxml.html import HTMLParser, document_fromstring

from megaphi.curation.extract.found import NotExtracted

LIBRARY_DEPTH = 256
"""Depth at which libxml2 itself stops, unless it is told that the tree may be huge."""


def parsed(html: str, *, deepest: int) -> Any:
    """The root element, without comments and processing instructions.

    Raises:
        NotExtracted: `too_deep`, `too_large` (one text or attribute above 10 MB), or `empty`.
    """
    parser = HTMLParser(
        encoding="utf-8", huge_tree=deepest > LIBRARY_DEPTH, remove_comments=True, remove_pis=True, no_network=True
    )
    try:
        root = document_fromstring(html.replace("\0", "").encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        raise NotExtracted("empty", "no elements") from None
    for entry in parser.error_log.filter_from_fatals():
        if entry.type == etree.ErrorTypes.ERR_RESOURCE_LIMIT:
            raise NotExtracted("too_deep" if "depth" in entry.message else "too_large", entry.message[:100])
    return root

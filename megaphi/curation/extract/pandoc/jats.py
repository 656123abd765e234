"""Articles in JATS, the XML of PubMed Central and of many publishers, read by pandoc after a pass with lxml.

The pass leaves out the document type (with it every declared entity: nothing expands), keeps one form of each formula
(the author's TeX where there is one, else MathML, which pandoc turns into TeX), and takes out the list of references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from megaphi.curation.extract.decode import decoded
from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.marks import Marks
from megaphi.curation.extract.pandoc.run import extracted

_PROLOGUE = re.compile(r"<\?xml[^>]*\?>|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
_ENTITY = re.compile(r"&(?!#|(?:amp|lt|gt|quot|apos);)([A-Za-z][\w.-]*);")
_FORMULAS = ("inline-formula", "disp-formula")
_LEFT_OUT = ("ref-list", "permissions", "journal-meta", "fn-group", "contrib-group", "aff", "supplementary-material")
_TEX_BODY = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_DOLLARS = re.compile(r"^(\$\$?|\\\[|\\\()(.*?)(\$\$?|\\\]|\\\))$", re.DOTALL)


def extract_jats(content: bytes, *, media_type: str, files: Mapping[str, bytes]) -> Extracted:
    """The text of an article. Raises NotExtracted."""
    del files
    source, _ = decoded(content, media_type=media_type)
    if "\0" in source:
        raise NotExtracted("nul_bytes")
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    source = _ENTITY.sub(_character, _PROLOGUE.sub("", source, count=8)).strip()
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False, load_dtd=False)
    try:
        root = etree.fromstring(source.encode("utf-8", "replace"), parser)
    except etree.XMLSyntaxError as error:
        raise NotExtracted("malformed", str(error)[:200]) from None
    if etree.QName(root).localname not in ("article", "pmc-articleset", "response"):
        raise NotExtracted("malformed", f"XML, but no article: <{etree.QName(root).localname[:40]}>")
    article = next(root.iter("{*}article"), root)
    marks = Marks(source)
    language = article.get("{http://www.w3.org/XML/1998/namespace}lang")
    formulas = _prepare(article, marks)
    return extracted(
        etree.tostring(article, encoding="utf-8"),
        "jats",
        formulas=formulas,
        marks=marks,
        found={"declared_language": language} if language else {},
    )


def _character(found: re.Match[str]) -> str:
    """The character of a named entity that HTML knows too; of others, its name as it stands."""
    name = html.unescape(found[0])
    return html.escape(name, quote=False)


def _prepare(article: Any, marks: Marks) -> int:
    """Take out what is no text, and put marks for formulas that come with TeX; returns the number of formulas."""
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]

    for name in _LEFT_OUT:
        for element in list(article.iter(f"{{*}}{name}", name)):
            _remove(element)
    for table in list(article.iter("{*}table", "table")):
        rows = [child for child in table if isinstance(child.tag, str) and etree.QName(child).localname == "tr"]
        if rows:  # pandoc reads the rows of bodies only
            head = [row for row in rows[:1] if all(etree.QName(cell).localname == "th" for cell in row)]
            etree.SubElement(table, "thead").extend(head)
            etree.SubElement(table, "tbody").extend(rows[len(head) :])
    formulas = 0
    for name in _FORMULAS:
        for element in list(article.iter(f"{{*}}{name}", name)):
            tex = next(iter(element.iter("{*}tex-math", "tex-math")), None)
            math = next(iter(element.iter("{http://www.w3.org/1998/Math/MathML}math")), None)
            formulas += tex is not None or math is not None
            written = _tex_of("".join(tex.itertext())) if tex is not None else ""
            if written:
                tail = element.tail
                element.clear()
                element.tag, element.tail = "named-content", tail
                element.text = marks.add("inline" if name == _FORMULAS[0] else "display", written)
            elif tex is not None and math is not None:
                _remove(tex)
    return formulas


def _tex_of(written: str) -> str:
    """The formula in a `tex-math` element, which is often a whole document."""
    body = _TEX_BODY.search(written)
    tex = (body[1] if body else written).strip()
    inside = _DOLLARS.match(tex)
    return (inside[2] if inside else tex).strip()


def _remove(element: Any) -> None:
    """Take an element out, but not the text behind it."""
    parent = element.getparent()
    if parent is None:
        return
    before = element.getprevious()
    if element.tail:
        if before is not None:
            before.tail = (before.tail or "") + element.tail
        else:
            parent.text = (parent.text or "") + element.tail
    parent.remove(element)

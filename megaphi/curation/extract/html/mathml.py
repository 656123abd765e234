"""MathML as TeX: the source that its writer left inside, else a conversion.

Nearly all MathML on the web was made from TeX and carries it, as an annotation or as `alttext`. What does not is
converted by `mathml-to-latex`, which loses the environment of a matrix: tables are converted here, cell by cell.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import lxml.etree as etree

_FENCES = {"(": "pmatrix", "[": "bmatrix", "{": "Bmatrix", "|": "vmatrix", "‖": "Vmatrix", "∥": "Vmatrix"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", "‖": "‖", "∥": "∥"}
_DISPLAYSTYLE = re.compile(r"\{\\(?:displaystyle|textstyle)\s+(.*)\}\Z", re.DOTALL)
_ATTRIBUTES = frozenset("open close separators columnalign linethickness mathvariant accent notation display".split())
_MARK = "\ue100"


def tex_of(math: Any) -> str:
    """TeX of a `math` element, empty where there is none in it and it cannot be converted."""
    for element in math.iter(etree.Element):
        if _name(element) == "annotation" and "tex" in element.get("encoding", "").lower():
            source = "".join(element.itertext()).strip()
            if source:
                return _DISPLAYSTYLE.sub(r"\1", source).strip()
    source = (math.get("alttext") or "").strip()
    return _DISPLAYSTYLE.sub(r"\1", source).strip() if source else converted(math)


def converted(math: Any) -> str:
    """TeX of MathML that has no source of it inside."""
    copy = _plain(math)
    tables: list[str] = []
    for table in reversed(list(copy.iter("mtable"))):
        tables.append(_matrix(table))
        mark = etree.Element("mi")
        mark.text = f"{_MARK}{len(tables) - 1}{_MARK}"
        _replace_with_fences(table, mark)
    return _with_tables(_without_tables(copy), tables)


def _without_tables(math: Any) -> str:
    from mathml_to_latex import MathMLToLaTeX

    try:
        return MathMLToLaTeX().convert(etree.tostring(math, encoding="unicode"))
    except Exception:  # elements and characters that the library does not know
        return ""


def _with_tables(tex: str, tables: list[str]) -> str:
    pattern = re.compile(rf"{_MARK}(\d+){_MARK}")
    for _ in range(len(tables) + 1):
        tex, count = pattern.subn(lambda match: tables[int(match[1])], tex)
        if not count:
            break
    return " ".join(tex.split())


def _matrix(table: Any) -> str:
    """A matrix, aligned lines or cases, by the fences around the table."""
    rows = []
    for row in table.iterchildren("mtr", "mlabeledtr"):
        cells = row.iterchildren("mtd")
        rows.append(" & ".join(_cell(cell) for cell in cells))
    environment = _environment(table)
    return rf"\begin{{{environment}}}" + r" \\ ".join(rows) + rf"\end{{{environment}}}"


def _cell(cell: Any) -> str:
    math = etree.Element("math")
    math.extend(list(cell))
    math.text = cell.text
    return _without_tables(math) if len(math) or (math.text or "").strip() else ""


def _environment(table: Any) -> str:
    before, after = _fences(table)
    if before in _FENCES and after == _CLOSING[before]:
        return _FENCES[before]
    if before == "{" and not after:
        return "cases"
    return "aligned" if "left" in table.get("columnalign", "") and "right" in table.get("columnalign", "") else "matrix"


def _fences(table: Any) -> tuple[str, str]:
    """The fence before and the one behind, empty where there is none."""
    parent = table.getparent()
    if parent is not None and parent.tag == "mfenced" and len(parent) == 1:
        return parent.get("open", "("), parent.get("close", ")")
    before, after = table.getprevious(), table.getnext()
    return _operator(before), _operator(after)


def _operator(element: Any) -> str:
    return (element.text or "").strip() if element is not None and element.tag == "mo" else ""


def _replace_with_fences(table: Any, mark: Any) -> None:
    before, after = _fences(table)
    parent = table.getparent()
    if parent.tag == "mfenced" and len(parent) == 1:
        table, parent = parent, parent.getparent()
    elif before in _FENCES and (after == _CLOSING[before] or (before == "{" and not after)):
        parent.remove(table.getprevious())
        if after:
            parent.remove(table.getnext())
    parent.replace(table, mark)


def _plain(math: Any) -> Any:
    """A copy without namespaces and prefixes, annotations and spacing."""
    copy = deepcopy(math)
    copy.tail = None
    for element in list(copy.iter(etree.Element)):
        name = _name(element)
        element.tag = name if name.isascii() and name.replace("-", "").isalnum() else "mrow"
        for attribute in element.attrib:
            if attribute not in _ATTRIBUTES:
                del element.attrib[attribute]
        if element.tag in ("annotation", "annotation-xml", "mphantom"):
            parent = element.getparent()
            if parent is not None:
                parent.remove(element)
    return copy


def _name(element: Any) -> str:
    return element.tag.rpartition("}")[2].rpartition(":")[2]

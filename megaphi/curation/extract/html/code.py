"""Blocks of code, byte by byte as a browser would copy them.

Highlighters put every token into an element, line numbers into columns or spans, and buttons around it all. The text
is what is left without numbers and buttons; `br` and elements for lines become line ends. The fence carries the
language where the page says it.
"""

from __future__ import annotations

import re
from typing import Any

import lxml.etree as etree

from megaphi.curation.extract.html.tree import classes

PREFORMATTED = frozenset({"pre", "listing", "xmp", "plaintext"})
_NUMBERS = frozenset(
    "linenos linenodiv lineno linenumber line-number line-numbers line-numbers-rows lnt ln gutter rouge-gutter "
    "blob-num hljs-ln-numbers hljs-ln-n code-line-number gl-line-number react-syntax-highlighter-line-number "
    "prettyprint-ln copy copybtn copy-button clipboard-copy".split()
)
_CODE_TABLES = frozenset("highlighttable rouge-table lntable hljs-ln syntaxhighlighter blob highlight-table".split())
_LINES = frozenset({"div", "li", "tr", "p"})
_LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight|brush:?|sourcecode|src)[-:\s]\s*([\w+#.-]{1,20})")
_NO_LANGUAGE = frozenset(
    "default none text plain plaintext output nohighlight source notranslate literal-block console-output".split()
)
_SAME = {
    "python3": "python",
    "ipython3": "ipython",
    "ipython": "ipython",
    "pycon3": "pycon",
    "sh": "bash",
    "c++": "cpp",
}
_BARE = frozenset(
    "python javascript java cpp ruby rust go bash json html css sql r julia haskell octave matlab".split()
)


def is_code_table(table: Any) -> bool:
    """True where a table is a listing with its line numbers."""
    return bool(classes(table) & _CODE_TABLES) or bool(
        table.xpath(".//td[contains(@class, 'linenos') or contains(@class, 'gutter') or contains(@class, 'blob-num')]")
    )


def code_of(element: Any) -> str:
    """The characters of a listing: a `pre`, or the table that one is in."""
    if element.tag == "table":
        inner = [pre for pre in element.iter(*PREFORMATTED) if not _is_number(pre, element)]
        if inner:
            return "\n".join(code_of(pre).rstrip("\n") for pre in inner)
    pieces: list[str] = []
    for event, node in etree.iterwalk(element, events=("start", "end")):
        if event == "start":
            if node is not element and classes(node) & _NUMBERS:
                node.clear(keep_tail=True)
                continue
            if node.tag == "br" or _ends_line(node, element, pieces):
                pieces.append("\n")
            if node.text:
                pieces.append(node.text)
        else:
            if _ends_line(node, element, pieces):
                pieces.append("\n")
            if node is not element and node.tail:
                pieces.append(node.tail)
    text = "".join(pieces).replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix("\n") if (element.text or "").startswith(("\n", "\r\n")) else text


def _ends_line(node: Any, listing: Any, pieces: list[str]) -> bool:
    """True where the line before an element, or in it, needs an end: elements for lines have none of their own."""
    return node.tag in _LINES and node is not listing and bool(pieces) and not pieces[-1].endswith("\n")


def _is_number(pre: Any, table: Any) -> bool:
    while pre is not None and pre is not table:
        if classes(pre) & _NUMBERS:
            return True
        pre = pre.getparent()
    return False


def language_of(element: Any) -> str:
    """The language that the page gives for a listing, in its class or in those of the elements around it."""
    inner = next((child for child in element if child.tag == "code"), None)
    around = element.getparent()
    further = around.getparent() if around is not None else None
    for node in (inner, element, around, further):
        if node is None or node.tag in ("body", "html", "main", "article"):
            continue
        named = node.get("data-lang") or node.get("data-language") or ""
        match = _LANGUAGE.search(node.get("class", "").lower())
        bare = classes(node) & _BARE if node in (inner, element) else frozenset()
        language = named.lower() or (match[1] if match else next(iter(bare), ""))
        if language:
            language = _SAME.get(language, language)
            return "" if language in _NO_LANGUAGE or not re.fullmatch(r"[\w+#.-]{1,20}", language) else language
    return ""


def fenced(code: str, language: str) -> str:
    """The code between fences that are longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    ticks = "`" * (longest + 1)
    return f"{ticks}{language}\n{code.rstrip(chr(10))}\n{ticks}"


def inline_code(text: str) -> str:
    """Code within a line."""
    text = " ".join(text.split())
    if not text:
        return ""
    return f"`` {text} ``" if "`" in text else f"`{text}`"

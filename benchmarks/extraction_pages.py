"""Real pages for the benchmark of extraction, and what each of them holds, read from the page itself.

The reference knows each corpus: the element of its content, what in it is navigation, how it writes formulas. It shares
no line with `megaphi.curation.extract`, and its rules are of no use for other pages.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lxml.html

WORD = re.compile(r"\w+")
TEX = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pages of one Debian package, and where their content is."""

    name: str
    folder: str
    pattern: str
    pages: int
    main: str
    """XPath of the content's element."""
    furniture: str
    """XPath, within it, of what is not content."""
    formulas: str = ""
    """XPath, within it, of elements that hold formulas."""
    most_bytes: int = 400_000


_LINKS = ".//a[contains(@class,'headerlink') or contains(@class,'viewcode-link') or contains(@class,'copiable-anchor')]"
_NEVER = ".//script|.//style|.//form|.//button"
CORPORA = (
    Corpus(
        "scipy", "python-scipy-doc/usr/share/doc/python-scipy-doc/html", "**/*.html", 130, "//main",
        f"{_LINKS}|{_NEVER}|.//div[@class='prev-next-area']|.//nav", ".//*[contains(@class,'math')]",
    ),
    Corpus(
        "python", "python3.11-doc/usr/share/doc/python3.11/html", "**/*.html", 80, "//div[@class='body']",
        f"{_LINKS}|{_NEVER}",
    ),
    Corpus(
        "gap", "gap-doc/usr/share/gap/doc", "**/*_mj.html", 40, "//body",
        f"{_NEVER}|.//div[starts-with(@class,'chlink')]|.//p[@id='mathjaxlink']|.//p[@class='foot']"
        "|.//div[@class='ChapSects']", ".//*[@class='SimpleMath' or @class='pcenter' or @class='DisplayMath']",
    ),
    Corpus(
        "octave", "octave-doc/usr/share/doc/octave", "**/*.html", 50, "//body",
        f"{_LINKS}|{_NEVER}|.//div[@class='header']",
    ),
    Corpus(
        "maxima", "maxima-doc/usr/share/doc/maxima-doc/html", "*.html", 40, "//body",
        f"{_LINKS}|{_NEVER}|.//div[@class='header']",
    ),
    Corpus(
        "handbook", "debian-handbook/usr/share/doc/debian-handbook/html", "*/*.html", 60, "//body",
        f"{_NEVER}|.//ul[contains(@class,'docnav')]|.//div[@id='banner']|.//p[@id='title']|.//*[@class='toc']",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reference:
    """A page and what should be in its text."""

    corpus: str
    path: Path
    content: bytes
    words: Counter[str]
    """Words of the content."""
    furniture: Counter[str]
    """Words of everything else that a reader sees."""
    formulas: Counter[str]
    """TeX without white space."""
    code: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """Texts of the cells of each row of a table."""


def references(root: Path) -> list[Reference]:
    """Pages of all corpora: an even sample that does not change from run to run, small and large ones."""
    return [reference for corpus in CORPORA for reference in _of(corpus, root)]


def _of(corpus: Corpus, root: Path) -> list[Reference]:
    paths = [path for path in (root / corpus.folder).glob(corpus.pattern) if path.stat().st_size <= corpus.most_bytes]
    paths = sorted(paths, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    found: list[Reference] = []
    for path in paths:
        if len(found) == corpus.pages:
            break
        page = reference(corpus, path)
        if page is not None:
            found.append(page)
    return found


def reference(corpus: Corpus, path: Path) -> Reference | None:
    """A page's reference; None where it has less than 50 words of content, or where two thirds of it are links."""
    content = path.read_bytes()
    tree = lxml.html.document_fromstring(content, parser=lxml.html.HTMLParser(encoding="utf-8"))
    mains = tree.xpath(corpus.main)
    if not mains:
        return None
    main = mains[0]
    seen = Counter(WORD.findall(_visible(tree)))
    for element in main.xpath(corpus.furniture):
        if element.getparent() is not None:
            element.drop_tree()
    words = Counter(WORD.findall(_visible(main)))
    links = sum(len(WORD.findall(link.text_content())) for link in main.iter("a"))
    if words.total() < 50 or links > words.total() * 2 / 3:
        return None
    return Reference(
        corpus.name, path, content, words, seen - words, _formulas(corpus, main), _code(main), tuple(_rows(main))
    )


def _visible(element: Any) -> str:
    pieces = []
    for node in element.iter():
        if isinstance(node.tag, str) and node.tag not in ("script", "style", "title", "head"):
            pieces.append(node.text or "")
        pieces.append(node.tail or "" if node is not element else "")
    return " ".join(pieces)


def _formulas(corpus: Corpus, main: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    if corpus.formulas:
        for element in main.xpath(corpus.formulas):
            for match in TEX.finditer(element.text_content()):
                found["".join((match[1] or match[2]).split())] += 1
    return found


def _code(main: Any) -> tuple[str, ...]:
    texts = [pre.text_content().removeprefix("\n").rstrip("\n") for pre in main.iter("pre")]
    return tuple(text for text in texts if text.strip())


def _rows(main: Any) -> list[tuple[str, ...]]:
    rows = []
    for table in main.iter("table"):
        if table.find(".//table") is not None or table.find(".//pre") is not None:
            continue
        for row in table.iter("tr"):
            cells = (" ".join(cell.text_content().split()) for cell in row if cell.tag in ("td", "th"))
            texts = tuple(cell for cell in cells if cell)
            if len(texts) > 1:
                rows.append(texts)
    return rows

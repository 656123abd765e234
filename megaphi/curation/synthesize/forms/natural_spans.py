"""Spans of a text that a person would leave open: sentences, paragraphs, sections, functions, blocks, formulas.

`data/tokenize/fill_in_the_middle.py` cuts at two random characters, which teaches typing. Here the middle is a whole
thing with a meaning, so that it can be asked for in words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

SHORTEST, LONGEST = 20, 4_000
"""Characters of a span; a formula may be shorter."""
PARAGRAPH = re.compile(r"\S.*?(?=\n[ \t]*\n|\Z)", re.DOTALL)
SENTENCE_END = re.compile(r"(?<=[.!?])[ \n]+(?=[A-Z0-9\"'(])")
HEADING = re.compile(r"^#{1,6} .*$", re.MULTILINE)
FORMULA = re.compile(r"\$\$.+?\$\$|\\\[.+?\\\]|(?<![\\$])\$[^$\n]{3,}?\$|\\\(.+?\\\)", re.DOTALL)
Span = tuple[int, int]


def natural_spans(text: str, span: str) -> list[Span]:
    """(first character, end) of every span of this sort that has text before and behind it, in order."""
    shortest = 5 if span == "formula" else SHORTEST
    found = []
    for start, end in sorted(set(FINDERS[span](text))):
        inside = text[start:end].strip()
        surrounded = text[:start].strip() and text[end:].strip()
        if surrounded and shortest <= len(inside) <= LONGEST:
            found.append((start, end))
    return found


def _paragraphs(text: str) -> Iterator[Span]:
    for match in PARAGRAPH.finditer(text):
        yield match.start(), match.start() + len(match[0].rstrip())


def _sentences(text: str) -> Iterator[Span]:
    for start, end in _paragraphs(text):
        cuts = [start, *(start + found.end() for found in SENTENCE_END.finditer(text[start:end])), end]
        for first, last in pairwise(cuts):
            yield first, first + len(text[first:last].rstrip())


def _sections(text: str) -> Iterator[Span]:
    """The text under each heading."""
    heads = list(HEADING.finditer(text))
    for head, following in zip(heads, [*heads[1:], None], strict=False):
        end = following.start() if following else len(text)
        yield head.end() + 1, head.end() + 1 + len(text[head.end() + 1 : end].rstrip())


def _formulas(text: str) -> Iterator[Span]:
    for match in FORMULA.finditer(text):
        yield match.span()


def _functions(text: str) -> Iterator[Span]:
    """Bodies of functions without their docstrings, of Python."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            if body and body[0].lineno > node.lineno:
                yield _lines(text, body[0].lineno, body[-1].end_lineno or body[-1].lineno)


def _blocks(text: str) -> Iterator[Span]:
    """Bodies of loops, branches, `with` and `try` of Python."""
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.For | ast.While | ast.If | ast.With | ast.Try) and node.body[0].lineno > node.lineno:
            yield _lines(text, node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno)


def _lines(text: str, first: int, last: int) -> Span:
    """The span of whole lines, counted from 1, without the last line's end."""
    lines = text.splitlines(keepends=True)
    start = sum(map(len, lines[: first - 1]))
    return start, start + len("".join(lines[first - 1 : last]).rstrip("\r\n"))


def _parsed(text: str) -> ast.Module:
    """The syntax tree, empty where the text is no Python. Only `\\n` may end a line, as Python counts them."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])
    return tree if len(text.splitlines()) == len(text.rstrip("\n").split("\n")) else ast.Module([], [])


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "sentence": _sentences,
    "paragraph": _paragraphs,
    "section": _sections,
    "function": _functions,
    "block": _blocks,
    "formula": _formulas,
}

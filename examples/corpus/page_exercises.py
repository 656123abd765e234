"""A page of documentation rewritten as exercises: questions and answers, gaps to fill, tasks with code, a summary.

The Phi-4 report rewrites pages with a language model. This is the same step by rule, over the Markdown that extraction
gives: every sentence of an answer is a sentence of the page, and only the questions are ours, so nothing can be
invented. Deterministic: the page decides.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.step import OfOne, StepContext

_QUESTIONS = (
    "What does the parameter {term} of {title} mean?",
    "Explain {term} in {title}.",
    "In {title}, what is {term} for?",
    "How is {term} used by {title}?",
)
_GAPS = ("Fill in the missing word: {sentence}", "Which word is missing? {sentence}", "Complete: {sentence}")
_SHORTEST_ANSWER = 30
_LONGEST_TERM = 40
_FENCE = re.compile(r"^(`{3,}).*\n([\s\S]*?)\n\1$", re.MULTILINE)
_TERM = re.compile(r"- (?:\*\*(.+?)\*\*|`(.+?)`)(?: : (.+))?\n  ([\s\S]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageExercises:
    """Replace the text of a page by exercises on it, under the same id."""

    VERSION: ClassVar[int] = 1

    def open(self, context: StepContext) -> OfOne:
        del context
        return self.rewrite

    def rewrite(self, document: Document) -> Outcome:
        sheet = exercises_on(read_page(document.text))
        return document.with_text(sheet) if sheet else Rejected(document, "nothing_to_ask")


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page."""

    kind: Literal["heading", "paragraph", "term", "item", "code"]
    text: str
    """Text of the piece; of a term its explanation."""
    term: str = ""
    detail: str = ""
    """Kind of a term, as in `**n** : int`."""


@dataclass(frozen=True, slots=True)
class Page:
    """Blocks of a page, in reading order."""

    title: str
    blocks: tuple[Block, ...]


def read_page(markdown: str) -> Page:
    """Headings, paragraphs, code, items of lists, and terms: items with a name whose explanation is indented."""
    blocks = tuple(_blocks(markdown))
    return Page(next((block.text for block in blocks if block.kind == "heading"), ""), blocks)


def _blocks(markdown: str) -> Iterator[Block]:
    end = 0
    for fence in _FENCE.finditer(markdown):
        yield from _blocks_of_prose(markdown[end : fence.start()])
        yield Block("code", fence[2])
        end = fence.end()
    yield from _blocks_of_prose(markdown[end:])


def _blocks_of_prose(text: str) -> Iterator[Block]:
    for part in re.split(r"\n{2,}", text.strip("\n")):
        if part.startswith("#"):
            yield Block("heading", part.lstrip("# "))
        elif part.startswith("- "):
            yield from map(_item, re.split(r"\n(?=- )", part))
        elif part.strip():
            yield Block("paragraph", " ".join(part.split()))


def _item(text: str) -> Block:
    term = _TERM.fullmatch(text)
    if term is None:
        return Block("item", text)
    return Block("term", " ".join(term[4].split()), term=term[1] or term[2], detail=term[3] or "")


def exercises_on(page: Page) -> str:
    """The page as a sheet of exercises; empty if there are none."""
    parts = [*_about(page), *_term_questions(page), *_code_tasks(page), *_gaps(page), *_summary(page)]
    if len(parts) < 2:
        return ""
    return f"Exercises on {page.title}\n\n" + "\n\n".join(parts)


def sentences(text: str) -> list[str]:
    """Cut a paragraph after full stops that end a sentence (a capital or the end of the text follows)."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z`(*])", text) if part.strip()]


def _paragraphs(page: Page) -> list[str]:
    """Those of words: no signature, which is a line of code, and no displayed formula."""
    return [block.text for block in page.blocks if block.kind == "paragraph" and not _is_marked_whole(block.text)]


def _is_marked_whole(text: str) -> bool:
    return re.fullmatch(r"`[^`]+`|\$\$.+\$\$", text) is not None


def _choice(page: Page, salt: str, options: tuple[str, ...]) -> str:
    """One of the options, determined by the page's title and the position in it."""
    digest = hashlib.sha256(f"{page.title}/{salt}".encode()).digest()
    return options[digest[0] % len(options)]


def _about(page: Page) -> Iterator[str]:
    first = next(iter(_paragraphs(page)), "")
    if len(first) >= _SHORTEST_ANSWER:
        ask = _choice(page, "about", ("What is {title}?", "What does {title} do?", "Describe {title} in a sentence."))
        yield f"Question: {ask.format(title=page.title)}\nAnswer: {first}"


def _term_questions(page: Page) -> Iterator[str]:
    """Ask about every term that is explained."""
    terms = [block for block in page.blocks if block.kind == "term"]
    for number, block in enumerate(terms):
        if len(block.text) < _SHORTEST_ANSWER or len(block.term) > _LONGEST_TERM or ":" in block.term:
            continue
        ask = _choice(page, f"term {number}", _QUESTIONS).format(term=block.term, title=page.title)
        stop = "" if block.text.endswith((".", ":", "!", "?")) else "."
        kind = f" It is given as {block.detail}." if block.detail else ""
        yield f"Question: {ask}\nAnswer: {block.text}{stop}{kind}"


def _code_tasks(page: Page) -> Iterator[str]:
    """A paragraph that announces code becomes a task, the code its solution."""
    for text, code in pairwise(page.blocks):
        if text.kind == "paragraph" and code.kind == "code" and text.text.endswith(":"):
            yield f"Task: {text.text[:-1]}.\nSolution:\n{code.text}"


def _gaps(page: Page) -> Iterator[str]:
    """Leave out a word that the page uses often, from one sentence of every third paragraph."""
    paragraphs = _paragraphs(page)
    frequency = Counter(word.lower() for text in paragraphs for word in re.findall(r"[A-Za-z]{6,}", text))
    for number, text in enumerate(paragraphs[::3]):
        sentence = max(sentences(text), key=len, default="")
        words = re.findall(r"\b[A-Za-z]{6,}\b", sentence)
        if len(sentence) < 60 or not words:
            continue
        missing = max(words, key=lambda word: (frequency[word.lower()], len(word)))
        gapped = re.sub(rf"\b{missing}\b", "_____", sentence, count=1)
        yield f"{_choice(page, f'gap {number}', _GAPS).format(sentence=gapped)}\nAnswer: {missing}"


def _summary(page: Page) -> Iterator[str]:
    """The first sentence of every section, as long as a page has several."""
    firsts = []
    for heading, following in pairwise(page.blocks):
        if heading.kind == "heading" and following.kind == "paragraph" and not _is_marked_whole(following.text):
            firsts += [sentence for sentence in sentences(following.text)[:1] if sentence.endswith(".")]
    if len(firsts) >= 2:
        yield f"Task: Summarise {page.title} in {len(firsts)} sentences.\nSolution: {' '.join(firsts)}"

"""A page of documentation rewritten as exercises: questions and answers, gaps to fill, tasks with code, a summary.

The Phi-4 report rewrites pages with a language model. This is the same step by rule: every sentence of an answer is a
sentence of the page, and only the questions are ours, so nothing can be invented. Deterministic: the page decides.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator

from megaphi.curation.extract.html_page import Block, Page

_QUESTIONS = (
    "What does the parameter {term} of {title} mean?",
    "Explain {term} in {title}.",
    "In {title}, what is {term} for?",
    "How is {term} used by {title}?",
)
_GAPS = ("Fill in the missing word: {sentence}", "Which word is missing? {sentence}", "Complete: {sentence}")
_SHORTEST_ANSWER = 30
_LONGEST_TERM = 40


def rewrite(page: Page) -> str:
    """The page as a sheet of exercises; empty if there are none."""
    parts = [*_about(page), *_term_questions(page), *_code_tasks(page), *_gaps(page), *_summary(page)]
    if len(parts) < 2:
        return ""
    return f"Exercises on {page.title}\n\n" + "\n\n".join(parts)


def sentences(text: str) -> list[str]:
    """Cut a paragraph after full stops that end a sentence (a capital or the end of the text follows)."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+(?=[A-Z`(])", text) if part.strip()]


def _choice(page: Page, salt: str, options: tuple[str, ...]) -> str:
    """One of the options, determined by the page's title and the position in it."""
    digest = hashlib.sha256(f"{page.title}/{salt}".encode()).digest()
    return options[digest[0] % len(options)]


def _about(page: Page) -> Iterator[str]:
    first = next((block.text for block in page.blocks if block.kind == "paragraph"), "")
    if len(first) >= _SHORTEST_ANSWER:
        ask = _choice(page, "about", ("What is {title}?", "What does {title} do?", "Describe {title} in a sentence."))
        yield f"Question: {ask.format(title=page.title)}\nAnswer: {first}"


def _term_questions(page: Page) -> Iterator[str]:
    """Ask about every term that a paragraph explains."""
    for number, (term, explanation) in enumerate(_explained_terms(page)):
        ask = _choice(page, f"term {number}", _QUESTIONS).format(term=term.text, title=page.title)
        stop = "" if explanation.endswith((".", ":", "!", "?")) else "."
        kind = f" It is given as {term.detail}." if term.detail else ""
        yield f"Question: {ask}\nAnswer: {explanation}{stop}{kind}"


def _explained_terms(page: Page) -> Iterator[tuple[Block, str]]:
    for term, following in zip(page.blocks, page.blocks[1:], strict=False):
        explained = following.kind == "paragraph" and len(following.text) >= _SHORTEST_ANSWER
        if term.kind == "term" and explained and len(term.text) <= _LONGEST_TERM and not term.text.endswith(":"):
            yield term, following.text


def _code_tasks(page: Page) -> Iterator[str]:
    """A paragraph that announces code becomes a task, the code its solution."""
    for text, code in zip(page.blocks, page.blocks[1:], strict=False):
        if text.kind == "paragraph" and code.kind == "code" and text.text.endswith(":"):
            yield f"Task: {text.text[:-1]}.\nSolution:\n{code.text}"


def _gaps(page: Page) -> Iterator[str]:
    """Leave out a word that the page uses often, from one sentence of every third paragraph."""
    paragraphs = [block.text for block in page.blocks if block.kind == "paragraph"]
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
    for heading, following in zip(page.blocks, page.blocks[1:], strict=False):
        if heading.kind == "heading" and following.kind == "paragraph":
            firsts += [sentence for sentence in sentences(following.text)[:1] if sentence.endswith(".")]
    if len(firsts) >= 2:
        yield f"Task: Summarise {page.title} in {len(firsts)} sentences.\nSolution: {' '.join(firsts)}"

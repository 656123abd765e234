"""Long documents: a question about one, or its summary.

A document is cut to the length of the context. It is cut at its end, as HELMET does, unless the record says where its
answer stands (`evidence`, a passage of the document word by word): then a window around that passage is taken, in which
its place is spread over the items. A document too short to fill the context measures another length: it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.evaluation.tasks.columns import column, has_column, item_name, text_column, texts_of
from megaphi.evaluation.tasks.guided.guides import Criterion
from megaphi.evaluation.tasks.long_context.filling import FilledContext, Making

QA_WORDING = {
    "chat": "Read the document and answer the question as briefly as you can, with a phrase if possible.\n\n"
    "{document}\n\nQuestion: {question}",
    "text": "{document}\n\nQuestion: {question}\nAnswer:",
}
SUMMARY_WORDING = {
    "chat": "Summarise the document below in one paragraph of at most 250 words.\n\n{document}\n\nNow summarise it.",
    "text": "{document}\n\nSummary of the document above, in one paragraph:",
}
CONTEXT = "context|document|input"
QA_CRITERIA = (
    Criterion(
        "is right",
        3,
        "3: says what one of the right answers says, in whatever words. 2: nearly, a detail is missing. "
        "1: a part of it. 0: something else, or no answer.",
    ),
    Criterion(
        "adds nothing wrong", 1, "1: says nothing besides that contradicts the right answers, and an answer is there."
    ),
)
"""For a judge, who sees the right answers and not the document."""
SUMMARY_CRITERIA = (
    Criterion(
        "has the main points",
        5,
        "5: every main point of the reference. 1 less for each that is missing or said wrongly. 0: none is there.",
    ),
    Criterion(
        "says nothing else of weight",
        3,
        "3: nothing contradicts the reference, and no claim of weight is beyond it. 2: one such claim. 1: two. "
        "0: more, or a contradiction.",
    ),
    Criterion(
        "reads well",
        2,
        "2: one clear paragraph of at most 250 words. 1: clear but longer, or in fragments. 0: hard to follow.",
    ),
)


@dataclass(frozen=True, slots=True)
class AskedDocument:
    """The key of a record: its document, what is asked about it (nothing: a summary), and what answers that."""

    text: str
    answers: tuple[str, ...]
    question: str = ""
    evidence: tuple[int, int] = (0, 0)
    """Characters that it spans."""


def qa_item(record: Record) -> Item:
    """A question about a document. Raises InputError."""
    text, question = text_column(record, CONTEXT), text_column(record, "question|query")
    evidence = (0, 0)
    if has_column(record, "evidence"):
        passage = text_column(record, "evidence")
        start = text.find(passage)
        if start < 0:
            raise InputError("column 'evidence' must stand in the document word by word")
        evidence = (start, start + len(passage))
    answers = _texts(record, "answers|answer")
    key = AskedDocument(text, answers, question, evidence)
    return Item(name=item_name(record, "id", question, text), question=question, gold=answers[0], key=key)


def summary_item(record: Record) -> Item:
    """A document with its summary. Raises InputError."""
    text, summaries = text_column(record, CONTEXT), _texts(record, "summary|summaries|answer")
    name = item_name(record, "id", text)
    return Item(name=name, question=f"Summary of {text[:80]}…", gold=summaries[0], key=AskedDocument(text, summaries))


def _texts(record: Record, names: str) -> tuple[str, ...]:
    name, value = column(record, names)
    return texts_of(name, [value] if isinstance(value, str) and not value.lstrip().startswith("[") else value)


def make_documents(making: Making) -> list[Item]:
    """One item for each record, its document cut to fit. Raises InputError that counts those which are too short."""
    chosen = making.items[: making.count]
    made: list[Item] = []
    short: list[str] = []
    for item, depth in zip(chosen, making.depths(len(chosen)) if chosen else [], strict=True):
        found = _cut(making, item, depth)
        if found is None:
            short.append(item.name)
        else:
            made.append(making.filled_item(item, found))
    if short:
        raise InputError(
            f"{making.task}: {len(short)} of {len(chosen)} documents are too short to fill {making.tokens} tokens, "
            f"{short[0]!r} for one. Leave them out of the file, or ask for shorter --lengths"
        )
    return made


def _cut(making: Making, item: Item, depth: float) -> FilledContext | None:
    pieces = re.findall(r"\S+\s*|\s+", item.key.text)
    first, last = _evidence_pieces(pieces, item.key.evidence)
    asked = {"question": item.key.question} if item.key.question else {}

    def start_of(units: int) -> int:
        wanted = first - int(depth * (units - (last - first) + 1)) if last else 0
        return min(max(wanted, 0), len(pieces) - units)

    def build(units: int):
        start = start_of(units)
        return making.prompt(document="".join(pieces[start : start + units]).strip(), **asked)

    units, tokens = making.most_units(build, least=max(last - first, 1), most=len(pieces))
    if units == len(pieces):
        return None
    facts: dict[str, float] = {"tokens": tokens, "units": units, "first_word": start_of(units)}
    if last:
        facts["depth"] = round((first - start_of(units)) / units, 4)
    return FilledContext(prompt=build(units), answers=item.key.answers, facts=facts)


def _evidence_pieces(pieces: Sequence[str], evidence: tuple[int, int]) -> tuple[int, int]:
    """First piece of the evidence, and the one after its last; (0, 0) if the record names none."""
    start, end = evidence
    if not end:
        return 0, 0
    touched, place = [], 0
    for number, piece in enumerate(pieces):
        if place < end and place + len(piece) > start:
            touched.append(number)
        place += len(piece)
    return touched[0], touched[-1] + 1

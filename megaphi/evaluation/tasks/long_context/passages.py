"""Passages around a question: to answer from (RAG), and to rank (re-ranking).

Columns are HELMET's: `ctxs`, a list of {"title", "text"}, to which ranking adds the grade `label`. Where the record's
own passages do not fill the context, those of the file's other questions do. For RAG exactly one passage with the
answer stays, at a place that is spread over the items; every other one that contains an answer is taken out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from megaphi.errors import InputError
from megaphi.evaluation.task import Item, Record
from megaphi.evaluation.tasks.columns import column, has_column, item_name, json_value, shown, text_column, texts_of
from megaphi.evaluation.tasks.long_context.filling import FilledContext, Making, placed
from megaphi.evaluation.tasks.long_context.metrics import is_found

RAG_WORDING = {
    "chat": "Answer the question from the passages below, as briefly as you can. Reply in this form:\n"
    "Answer: [the answer]\n\n{passages}\n\nQuestion: {question}",
    "text": "{passages}\n\nQuestion: {question}\nAnswer:",
}
RERANK_WORDING = {
    "chat": "Below are passages, each with an ID. Order them by how well they answer the query, the best first. Write "
    "the IDs of the ten best in one line of this form:\nRanking: ID4 > ID9 > ID2\n\n{passages}\n\nQuery: {question}",
    "text": "{passages}\n\nIDs of the passages that answer the query, the best first.\nQuery: {question}\nRanking:",
}
MOST_RELEVANT = 10
"""Relevant passages of a query that are shown at most: those with the highest grades."""

MOST_CHARACTERS_A_TOKEN = 12
"""More than any tokenizer has in running text: passages beyond so many characters cannot fit, and are not looked at."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a record."""

    title: str
    text: str
    label: int = 0
    is_positive: bool = False

    @property
    def shown(self) -> str:
        return f"Passage (title: {self.title}): {self.text}" if self.title else f"Passage: {self.text}"


@dataclass(frozen=True, slots=True)
class AskedPassages:
    """The key of a record: its passages, and the texts that answer it."""

    passages: tuple[Passage, ...]
    answers: tuple[str, ...] = ()


def rag_item(record: Record) -> Item:
    """A question with its answers and passages. Raises InputError."""
    question = text_column(record, "question|query")
    name, value = column(record, "answers|answer")
    answers = texts_of(name, [value] if isinstance(value, str) and not value.startswith("[") else value)
    positive = _passages(record, "positive_ctxs") if has_column(record, "positive_ctxs") else ()
    others = _passages(record, "ctxs")
    marked = [Passage(one.title, one.text, one.label, True) for one in positive or others if _holds(one, answers)]
    if not marked:
        raise InputError(f"no passage of {'positive_ctxs' if positive else 'ctxs'} contains an answer")
    kept = (*marked[:1], *(one for one in others if not _holds(one, answers)))
    return Item(
        name=item_name(record, "id|qid", question),
        question=question,
        gold=answers[0],
        key=AskedPassages(kept, answers),
    )


def rerank_item(record: Record) -> Item:
    """A query with graded passages. Raises InputError."""
    question = text_column(record, "query|question")
    passages = _passages(record, "ctxs")
    if not any(one.label > 0 for one in passages):
        raise InputError("no passage of ctxs has a label above 0")
    ordered = sorted(passages, key=lambda one: -one.label)
    relevant = [one for one in ordered if one.label > 0][:MOST_RELEVANT]
    kept = (*relevant, *(one for one in ordered if one.label <= 0))
    return Item(
        name=item_name(record, "qid|id", question),
        question=question,
        gold=f"{len(relevant)} relevant passages",
        key=AskedPassages(kept),
    )


def _passages(record: Record, names: str) -> tuple[Passage, ...]:
    name, value = column(record, names)
    listed = json_value(value)
    if not isinstance(listed, list | tuple) or not listed:
        raise InputError(f"column {name!r} must be a list of objects with a text, not {shown(value)}")
    return tuple(_passage(name, one, number) for number, one in enumerate(listed, start=1))


def _passage(name: str, one: Any, number: int) -> Passage:
    if not isinstance(one, dict) or not isinstance(one.get("text"), str) or not one["text"].strip():
        raise InputError(f"column {name!r}: passage {number} must be an object with a 'text' that is not blank")
    title, label = one.get("title") or "", one.get("label") or 0
    if not isinstance(title, str) or isinstance(label, bool) or not isinstance(label, int | float) or label % 1:
        raise InputError(f"column {name!r}: passage {number} must have a text as title and a whole number as label")
    return Passage(title.strip(), one["text"].strip(), int(label))


def _holds(passage: Passage, answers: Sequence[str]) -> bool:
    return is_found(answers, f"{passage.title} {passage.text}")


def make_rag(making: Making) -> list[Item]:
    """One item for each record: the passage with the answer among as many others as fit."""
    chosen = making.items[: making.count]
    made, guess = [], 0
    for item, depth in zip(chosen, making.depths(len(chosen)), strict=True):
        needle, *own = item.key.passages
        others = [one.shown for one in _with_strangers(making, item, own)]

        def build(units: int, item: Item = item, needle: str = needle.shown, others=others, depth: float = depth):
            listed = "\n\n".join(placed(needle, others[: units - 1], depth))
            return making.prompt(passages=listed, question=item.question)

        units, tokens = making.most_units(build, least=1, most=len(others) + 1, guess=guess)
        if units > len(others):
            raise making.too_little("passages", units, tokens)
        guess = units
        facts = {"tokens": tokens, "units": units, "depth": round(depth, 4)}
        context = FilledContext(prompt=build(units), answers=item.key.answers, facts=facts)
        made.append(making.filled_item(item, context))
    return made


def make_rerank(making: Making) -> list[Item]:
    """One item for each record: its relevant passages and as many others as fit, in shuffled order."""
    made, guess = [], 0
    for item in making.items[: making.count]:
        relevant = [one for one in item.key.passages if one.label > 0]
        passages = [*relevant, *_with_strangers(making, item, item.key.passages[len(relevant) :])]
        draw = making.draw(item.name)
        names = [f"ID{number}" for number in draw.sample(range(1_000, 1_000_000), len(passages))]
        order = [draw.random() for _ in passages]

        def build(units: int, item: Item = item, passages=passages, names=names, order=order):
            shuffled = sorted(range(units), key=order.__getitem__)
            listed = "\n\n".join(f"[{names[place]}] {passages[place].shown}" for place in shuffled)
            return making.prompt(passages=listed, question=item.question)

        units, tokens = making.most_units(build, least=len(relevant), most=len(passages), guess=guess)
        if units == len(passages):
            raise making.too_little("passages", units, tokens)
        guess = units
        grades = {name: max(one.label, 0) for name, one in zip(names[:units], passages, strict=False)}
        facts = {"tokens": tokens, "units": units, "relevant": len(relevant)}
        context = FilledContext(prompt=build(units), answers=(), relevance=grades, facts=facts)
        made.append(making.filled_item(item, context))
    return made


def _with_strangers(making: Making, item: Item, own: Sequence[Passage]) -> list[Passage]:
    """The record's own passages in their order, then those of other records in shuffled order.

    No text comes twice, none contains an answer, and there are not many more than can fit.
    """
    order = making.draw(f"{item.name} strangers").sample(range(len(making.items)), len(making.items))
    strangers = (making.items[place] for place in order)
    pool = (one for other in strangers if other.question != item.question for one in other.key.passages)
    seen = {one.text for one in item.key.passages if one.is_positive or one.label > 0}
    found, characters = [], 0
    for one in chain(own, (Passage(one.title, one.text) for one in pool)):
        if one.text not in seen and not _holds(one, item.key.answers):
            seen.add(one.text)
            found.append(one)
            characters += len(one.text)
        if characters > MOST_CHARACTERS_A_TOKEN * making.tokens:
            break
    return found


def ranking_of(answer: str, relevance: dict[str, int]) -> list[str]:
    """IDs in the order in which the last `Ranking:` of the answer names them, or the whole answer if it has none.

    An ID counts where it comes first; what is no ID of the prompt takes no rank.
    """
    stated = re.split(r"ranking\W*:", answer, flags=re.IGNORECASE)[-1]
    return list(dict.fromkeys(name for name in re.findall(r"ID\d+", stated) if name in relevance))

"""The most that a recipe's steps which ask a model would cost, before anything is asked.

Each document of the input is followed through the steps by itself, so that no more than one is held: selection cuts it
into its real passages, of which the most that may be kept go on; a kind makes as many documents of it as it may.
Filters and the like are taken to keep all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megaphi.curation.document import Document
from megaphi.curation.synthesize.requests.metered import FRAME_TOKENS
from megaphi.curation.synthesize.steps.kind_cost import (
    Cost,
    CountTokens,
    kind_cost,
    made_documents,
    made_tokens,
    of_value,
    total,
)
from megaphi.curation.synthesize.steps.opening import Prices
from megaphi.curation.synthesize.steps.passages import passages
from megaphi.curation.synthesize.steps.select_seeds import JUDGEMENT, PURPOSES, SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import find_kind, our_prompt


def bytes_of(text: str) -> int:
    """The most tokens that a byte-level tokenizer makes of a text."""
    return len(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, slots=True)
class StepCost:
    """The bound of one step."""

    label: str
    documents: int
    """That it is given, at most."""
    cost: Cost
    money: float
    budget_tokens: int | None

    def __str__(self) -> str:
        one = self.cost
        money = f", {self.money:,.2f} in money" if self.money else ""
        budget = f"; it stops at its budget of {self.budget_tokens:,} tokens" if self.budget_tokens is not None else ""
        return (
            f"{self.label}: at most {self.documents:,} documents, {one.requests:,} requests, {one.answers:,} answers, "
            f"{one.prompt_tokens:,} tokens of prompts and {one.answer_tokens:,} of answers{money}{budget}"
        )


@dataclass(frozen=True, slots=True)
class _Item:
    """A document of which only the length may be known."""

    tokens: int
    document: Document | None = None


def asks_a_model(step: object) -> bool:
    """Return whether a step is one of those whose costs are known here."""
    return isinstance(step, SelectSeeds | Synthesize)


def costs_of_steps(
    steps: Sequence[object], documents: Iterable[Document], *, count: CountTokens = bytes_of
) -> list[StepCost]:
    """Bounds of those steps that ask a model, in order.

    Args:
        count: tokens of a text; by default the bytes, which are more.

    Raises:
        InputError: a step names a kind that is not there.
    """
    asking = [step for step in steps if isinstance(step, SelectSeeds | Synthesize)]
    sums = [(0, Cost())] * len(asking)
    for document in documents:
        items = [_Item(count(document.text) or len(document.content), document)]
        for place, step in enumerate(asking):
            given, (before, cost) = len(items), sums[place]
            of_step = _of_selection if isinstance(step, SelectSeeds) else _of_kind
            added, items = of_step(step, items, count)  # pyright: ignore[reportArgumentType]
            sums[place] = (before + given, cost + added)
    return [_step_cost(step, given, cost) for step, (given, cost) in zip(asking, sums, strict=True)]


def _step_cost(step: SelectSeeds | Synthesize, given: int, cost: Cost) -> StepCost:
    prices = Prices(step.prompt_price, step.answer_price)
    money = prices.of(prompt_tokens=cost.prompt_tokens, answer_tokens=cost.answer_tokens)
    label = "seeds" if isinstance(step, SelectSeeds) else step.kind
    return StepCost(label, given, cost, money, step.budget_tokens)


def _of_selection(step: SelectSeeds, items: Sequence[_Item], count: CountTokens) -> tuple[Cost, list[_Item]]:
    costs, following = [], []
    for item in items:
        lengths = _passage_lengths(step, item, count)
        costs.append(_judgement("page_score", min(item.tokens, 4 * step.page_characters), count))
        for purpose in PURPOSES:
            costs += [_judgement(f"passage_{purpose}", length, count) for length in lengths]
        following += [_Item(length) for length in sorted(lengths)[-len(PURPOSES) * step.best :]]
    return total(costs), following


def _passage_lengths(step: SelectSeeds, item: _Item, count: CountTokens) -> list[int]:
    if item.document is None or not item.document.text:
        pieces = -(-item.tokens // max(step.shortest_passage, 1))
        return [min(item.tokens, 4 * step.window_characters)] * pieces
    text = item.document.text
    cut = [text[start:end] for start, end in passages(text, window=step.window_characters)]
    return [count(one) for one in cut if len(one.strip()) >= step.shortest_passage]


def _judgement(name: str, tokens: int, count: CountTokens) -> Cost:
    empty = our_prompt(name).filled(plain={}, data={"document": ""}, seed=0, item="")
    return of_value(count(empty.messages[0].content) + tokens + FRAME_TOKENS, JUDGEMENT.max_tokens)


def _of_kind(step: Synthesize, items: Sequence[_Item], count: CountTokens) -> tuple[Cost, list[_Item]]:
    kind = find_kind(step.kind, table=step.table)
    costs, following = [], []
    for item in items:
        if step.keep_seeds:
            following.append(item)
        if item.document is not None and not step.takes(item.document, kind):
            continue
        works = min(step.per_seed, kind.combinations)
        costs.append(kind_cost(kind, item.tokens, count) * works)
        made = _Item(made_tokens(kind, item.tokens, count))
        following += [made] * (made_documents(kind) * works)
    return total(costs), following

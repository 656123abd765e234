"""The step `ExtractByModel`: as `Extract`, but a model decides which blocks of an HTML page are its content.

A page is parsed and cut as `Extract` does it; the model sees the beginnings of its blocks and labels each `keep` or
`drop`, so that formulas, code and tables are whole or not there. Only that decision is asked for: threads of forums and
other formats than HTML cost nothing. A page for which a label is missing after all attempts falls back on the rules as
a whole, or is rejected, as the recipe says; both are counted.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from megaphi.config import Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.extract.by_model.windows import (
    answer_tokens,
    labels_schema,
    prompt_about,
    question_about,
    windows_of,
)
from megaphi.curation.extract.extract import Extract, check_libraries, extracted, extractors
from megaphi.curation.extract.html.blocks import PageBlock
from megaphi.curation.extract.html.offered import OFFERED, blocks_from_plain
from megaphi.curation.extract.html.page import text_of_blocks
from megaphi.curation.requests.asking import Missed, ask_values
from megaphi.curation.requests.cost import Cost, CountTokens, of_text, of_value, total
from megaphi.curation.requests.dry_run import Expected
from megaphi.curation.requests.metered import FRAME_TOKENS
from megaphi.curation.requests.opening import Prices, StepSamplers, open_samplers
from megaphi.curation.step import ModelName, OfMany, StepContext
from megaphi.log import logger
from megaphi.sampling import Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractByModel:
    """Text from HTML by a model's decision, and from other formats as `Extract` gives it."""

    VERSION: ClassVar[int] = 1
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"batch_documents", "prompt_price", "answer_price"})
    sampler: ModelName
    """The model that labels: a path, or http://HOST:PORT/v1=MODEL."""
    otherwise: Literal["rules", "reject"] = "rules"
    """A page that the model does not label: its text by the rules, or a rejection."""
    rules: Extract = field(default_factory=Extract)
    """Limits, other formats, and the library that decides where the model does not."""
    window_blocks: Annotated[int, Range(minimum=1, maximum=500)] = 40
    """Blocks in one request at most."""
    shown_characters: Annotated[int, Range(minimum=20)] = 160
    """Characters of a block that the model sees."""
    budget_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Prompts and answers together, of all processes and runs in this folder."""
    prompt_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of prompts, to be shown."""
    answer_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of answers."""
    seed: int = 0
    batch_documents: Annotated[int, Range(minimum=1)] = 256
    """Pages that are asked about together: windows of the same number of blocks are in flight at a time."""

    @property
    def label(self) -> str:
        return "extract_by_model"

    def open_batch(self, context: StepContext) -> OfMany:
        """Raises InputError for a sampler that cannot be opened, or a library that is not installed."""
        extract = self._extract()
        samplers = open_samplers(
            context,
            writer=self.sampler,
            judge="",
            budget_tokens=self.budget_tokens,
            prices=Prices(self.prompt_price, self.answer_price),
            label=self.label,
        )
        missed: Counter[str] = Counter()

        def extract_all(documents: Sequence[Document]) -> Iterable[Outcome]:
            pages = [_Page.of(document, extract(document)) for document in documents]
            self._ask([page for page in pages if page.blocks], samplers)
            samplers.show_costs()
            _show_missed(pages, missed)
            return [self._outcome(page, samplers.writer.name) for page in pages]

        return extract_all

    def bound(self, expected: Expected, count: CountTokens) -> tuple[Cost, list[Expected]]:
        """The questions about the real blocks of a page, which is parsed for it.

        Any window may be the first of its size, with which the sampler is asked whether it takes the schema.
        """
        if expected.document is None or not expected.document.content:
            return Cost(), [expected]
        page = _Page.of(expected.document, self._extract()(expected.document))
        costs = []
        for window in windows_of(len(page.blocks), most=self.window_blocks):
            prompt = prompt_about([page.blocks[number] for number in window], **self._shown(page))
            tokens = count(prompt.messages[0].content) + FRAME_TOKENS
            costs += [of_text(tokens, 1), of_value(tokens, answer_tokens(len(window)))]
        return total(costs), [expected]

    def _extract(self) -> Callable[[Document], Outcome]:
        check_libraries()
        table = extractors(self.rules, html="html.offered:offer_blocks")
        return lambda document: extracted(document, self.rules, table)

    def _shown(self, page: _Page) -> dict[str, Any]:
        return {"title": page.title, "shown_characters": self.shown_characters, "seed": self.seed}

    def _ask(self, pages: Sequence[_Page], samplers: StepSamplers) -> None:
        """Give every page its labels, or the first reason why it has none."""
        asked = [(page, window) for page in pages for window in windows_of(len(page.blocks), most=self.window_blocks)]
        asked.sort(key=lambda one: len(one[1]))
        for size, of_size in itertools.groupby(asked, key=lambda one: len(one[1])):
            group = list(of_size)
            found = ask_values(
                samplers.writer,
                [question_about([page.blocks[at] for at in window], **self._shown(page)) for page, window in group],
                Sampling(max_tokens=answer_tokens(size), seed=self.seed),
                schema=labels_schema(size),
                memory=samplers.journal,
                seeds=[self.seed] * len(group),
            )
            for (page, window), labels in zip(group, found, strict=True):
                page.take(window, labels)

    def _outcome(self, page: _Page, sampler: str) -> Outcome:
        if page.missed is not None and self.otherwise == "reject":
            return Rejected(page.document, page.missed.reason, page.missed.detail)
        if isinstance(page.by_rules, Rejected) or not page.blocks:
            return page.by_rules
        document = page.by_rules
        if page.missed is not None:
            by_rules = {**document.metadata["extraction"], "missed": page.missed.reason}
            return document.known(extraction=by_rules)
        if not page.kept:
            return Rejected(page.document, "empty", f"{sampler} keeps none of {len(page.blocks)} blocks")
        chosen = [page.blocks[number] for number in sorted(page.kept)]
        found = text_of_blocks(page.blocks, chosen, {}, decided=sampler, blocks=[len(chosen), len(page.blocks)])
        return document.with_text(found.text, **found.metadata)


@dataclass(slots=True)
class _Page:
    """A document on its way."""

    document: Document
    by_rules: Outcome
    """The outcome without the model."""
    blocks: list[PageBlock] = field(default_factory=list)
    """To be labelled; none where there is nothing to ask."""
    kept: set[int] = field(default_factory=set)
    missed: Missed | None = None

    @classmethod
    def of(cls, document: Document, found: Outcome) -> _Page:
        """`found`: the document with its text and the blocks that are offered, or its rejection."""
        if isinstance(found, Rejected) or not document.content or OFFERED not in found.metadata:
            return cls(document, found)
        metadata = dict(found.metadata)
        blocks = blocks_from_plain(metadata.pop(OFFERED))
        return cls(document, replace(found, metadata=metadata), blocks)

    @property
    def title(self) -> str:
        assert isinstance(self.by_rules, Document)
        return str(self.by_rules.metadata["title"])

    def take(self, window: range, labels: list[bool] | Missed) -> None:
        if isinstance(labels, Missed):
            self.missed = self.missed or labels
        else:
            self.kept |= {number for number, keeps in zip(window, labels, strict=True) if keeps}


def _show_missed(pages: Sequence[_Page], missed: Counter[str]) -> None:
    """Say how many pages the model did not label, if any of these; `missed` counts them in this process."""
    new = Counter(page.missed.reason for page in pages if page.missed is not None)
    missed.update(new)
    if new:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in missed.most_common())
        logger.info("extract_by_model: pages that the model did not label, so far: %s", reasons)

"""The choice of seeds: pages scored for what they teach, then their passages for facts and for reasoning.

A page below its score costs one short request; the passages of the others are scored twice, and the best of each page
go on as seed documents. A passage that is good for both is one seed, for what it scores higher in (facts if the same).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from megaphi.config import Range
from megaphi.conversation import Conversation
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.requests.asking import Missed, ask_values
from megaphi.curation.requests.cost import Cost, CountTokens, of_value, total
from megaphi.curation.requests.dry_run import Expected
from megaphi.curation.requests.metered import FRAME_TOKENS
from megaphi.curation.requests.opening import Prices, StepSamplers, open_samplers
from megaphi.curation.step import ModelName, OfMany, StepContext
from megaphi.curation.synthesize.forms import schemas
from megaphi.curation.synthesize.steps.passages import passages
from megaphi.curation.synthesize.table.kinds_file import our_prompt
from megaphi.judging.asking import JsonQuestion
from megaphi.sampling import Sampling

PURPOSES = ("facts", "reasoning")
JUDGEMENT = Sampling(max_tokens=512)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectSeeds:
    """Passages that are worth writing about."""

    VERSION: ClassVar[int] = 2
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"batch_documents", "prompt_price", "answer_price"})
    sampler: ModelName
    """The model that scores: a path, or http://HOST:PORT/v1=MODEL."""
    page_characters: Annotated[int, Range(minimum=1)] = 8_000
    """The beginning of a page, which its score is about."""
    least_page_score: Annotated[int, Range(minimum=1, maximum=5)] = 3
    window_characters: Annotated[int, Range(minimum=100)] = 3_000
    """The longest passage."""
    shortest_passage: Annotated[int, Range(minimum=0)] = 200
    """Characters below which a passage is not looked at."""
    least_passage_score: Annotated[int, Range(minimum=1, maximum=5)] = 4
    best: Annotated[int, Range(minimum=1)] = 4
    """Passages kept of a page at most, for facts and for reasoning each."""
    budget_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Prompts and answers together, of all processes and runs in this folder."""
    prompt_price: Annotated[float, Range(minimum=0)] = 0.0
    answer_price: Annotated[float, Range(minimum=0)] = 0.0
    seed: int = 0
    batch_documents: Annotated[int, Range(minimum=1)] = 64

    @property
    def label(self) -> str:
        return "seeds"

    def open_batch(self, context: StepContext) -> OfMany:
        """Raises InputError for a sampler that cannot be opened."""
        samplers = open_samplers(
            context,
            writer=self.sampler,
            judge="",
            budget_tokens=self.budget_tokens,
            prices=Prices(self.prompt_price, self.answer_price),
            label=self.label,
        )

        def select(documents: Sequence[Document]) -> Iterable[Outcome]:
            pages = [_Page(document) for document in documents]
            self._score_pages(pages, samplers)
            self._score_passages([page for page in pages if page.rejection is None], samplers)
            samplers.show_costs()
            return [outcome for page in pages for outcome in self._outcomes(page)]

        return select

    def bound(self, expected: Expected, count: CountTokens) -> tuple[Cost, list[Expected]]:
        """The scores of a page and its real passages, of which the most that may be kept go on."""
        lengths = self._passage_lengths(expected, count)
        costs = [_judgement("page_score", min(expected.tokens, 4 * self.page_characters), count)]
        for purpose in PURPOSES:
            costs += [_judgement(f"passage_{purpose}", length, count) for length in lengths]
        return total(costs), [Expected(length) for length in sorted(lengths)[-len(PURPOSES) * self.best :]]

    def _passage_lengths(self, expected: Expected, count: CountTokens) -> list[int]:
        if expected.document is None or not expected.document.text:
            pieces = -(-expected.tokens // max(self.shortest_passage, 1))
            return [min(expected.tokens, 4 * self.window_characters)] * pieces
        text = expected.document.text
        cut = [text[start:end] for start, end in passages(text, window=self.window_characters)]
        return [count(one) for one in cut if len(one.strip()) >= self.shortest_passage]

    def _score_pages(self, pages: Sequence[_Page], samplers: StepSamplers) -> None:
        prompts = [
            self._prompt("page_score", page.document, page.document.text[: self.page_characters]) for page in pages
        ]
        for page, found in zip(pages, _scores(prompts, samplers), strict=True):
            if isinstance(found, Missed):
                page.rejection = found
            elif found.score < self.least_page_score:
                page.rejection = Missed("page_score", f"{found.score} of 5: {found.findings}")
            else:
                page.score = found.score

    def _score_passages(self, pages: Sequence[_Page], samplers: StepSamplers) -> None:
        asked = [
            (page, span, purpose)
            for page in pages
            for span in passages(page.document.text, window=self.window_characters)
            if len(page.document.text[slice(*span)].strip()) >= self.shortest_passage
            for purpose in PURPOSES
        ]
        prompts = [
            self._prompt(f"passage_{purpose}", page.document, page.document.text[slice(*span)])
            for page, span, purpose in asked
        ]
        for (page, span, purpose), found in zip(asked, _scores(prompts, samplers), strict=True):
            if isinstance(found, Missed):
                page.missed.append(found)
            else:
                page.scores.setdefault(span, {})[purpose] = found.score

    def _outcomes(self, page: _Page) -> Iterator[Outcome]:
        document = page.document
        if page.rejection is not None:
            yield Rejected(document, page.rejection.reason, page.rejection.detail)
            return
        chosen = self._chosen(page)
        if not chosen and page.missed and not page.scores:
            yield Rejected(document, page.missed[0].reason, page.missed[0].detail)
        elif not chosen:
            best = max((score for scores in page.scores.values() for score in scores.values()), default=0)
            yield Rejected(document, "no_passage", f"{len(page.scores)} passages, the best score is {best}")
        for (start, end), purpose in chosen:
            seed = {"page_score": page.score, "chosen_for": purpose, "characters": [start, end]}
            seed |= {f"{name}_score": score for name, score in page.scores[start, end].items()}
            part = replace(document, id=f"{document.id}#{start}-{end}")
            yield part.with_text(document.text[start:end].strip(), seed=seed)

    def _chosen(self, page: _Page) -> list[tuple[tuple[int, int], str]]:
        """The best passages in the order of the page, each with what it was chosen for."""
        chosen: dict[tuple[int, int], str] = {}
        for purpose in PURPOSES:
            scored = [(-scores[purpose], span) for span, scores in page.scores.items() if purpose in scores]
            good = [(score, span) for score, span in sorted(scored) if -score >= self.least_passage_score]
            for score, span in good[: self.best]:
                if span not in chosen or -score > page.scores[span][chosen[span]]:
                    chosen[span] = purpose
        return sorted(chosen.items())

    def _prompt(self, name: str, document: Document, text: str) -> Conversation:
        return our_prompt(name).filled(plain={}, data={"document": text}, seed=self.seed, item=document.id)


@dataclass(slots=True)
class _Page:
    """A page on its way."""

    document: Document
    score: int = 0
    scores: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    """Passage -> purpose -> score."""
    missed: list[Missed] = field(default_factory=list)
    """Passages without a score."""
    rejection: Missed | None = None


def _scores(prompts: Sequence[Conversation], samplers: StepSamplers) -> list[schemas.Scored | Missed]:
    questions = [JsonQuestion(prompt.messages, schemas.read_scored) for prompt in prompts]
    return ask_values(
        samplers.judge,
        questions,
        JUDGEMENT,
        schema=schemas.SCORED,
        memory=samplers.journal,
        seeds=[0] * len(questions),
    )


def _judgement(name: str, tokens: int, count: CountTokens) -> Cost:
    empty = our_prompt(name).filled(plain={}, data={"document": ""}, seed=0, item="")
    return of_value(count(empty.messages[0].content) + tokens + FRAME_TOKENS, JUDGEMENT.max_tokens)

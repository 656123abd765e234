"""A step that makes documents of one kind of the table from seed documents, over any sampler.

A batch goes through the chain of the kind together: hundreds of requests are in flight, all are kept in the step's
journal, and none is paid for twice. Every document that comes out says what made it (metadata `synthetic`); what was
rejected on the way says why. When the budget is spent the rest is rejected as `budget`, and a later run with a larger
one continues there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from megaphi.config import FilePath, Range
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.requests.cost import Cost, CountTokens
from megaphi.curation.requests.dry_run import Expected
from megaphi.curation.requests.opening import Prices, open_samplers
from megaphi.curation.step import ModelName, OfMany, StepContext
from megaphi.curation.synthesize.forms.chain import run_chain
from megaphi.curation.synthesize.forms.work import Tools, Work, start_works
from megaphi.curation.synthesize.steps.kind_cost import kind_cost, made_documents, made_tokens
from megaphi.curation.synthesize.steps.seed_source import is_synthetic, seed_sources
from megaphi.curation.synthesize.table.kind import SyntheticKind
from megaphi.curation.synthesize.table.kinds_file import find_kind

KEPT_OF_THE_SEED = ("licence", "license", "language", "topic")
"""Metadata of a seed that are true of what is made from it too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthesize:
    """One kind of synthetic data, from every document that has a source which the kind takes."""

    VERSION: ClassVar[int] = 2
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset({"batch_documents", "prompt_price", "answer_price"})
    kind: str
    """Its name in the table."""
    sampler: ModelName
    """The model that writes: a path, or http://HOST:PORT/v1=MODEL."""
    judge: ModelName = ""
    """The model that judges; the writer itself if empty."""
    table: FilePath = ""
    """A folder with kinds besides ours: kinds.toml, and prompts/."""
    per_seed: Annotated[int, Range(minimum=1, maximum=1000)] = 1
    """Works on each document, each with other choices of the table; the form question or qa gives several of each."""
    seed_source: str = ""
    """The source of the documents where their metadata do not say: page, book, paper, code, forum, …"""
    keep_seeds: bool = False
    """Pass on the seeds, and documents that the kind does not take, so that steps of several kinds can follow. What
    steps before this one made is passed on in any case, unless this kind takes it."""
    temperature: Annotated[float, Range(minimum=0, maximum=100)] = 0.8
    """For writing; judges are asked at 0."""
    top_p: Annotated[float, Range(minimum=0.01, maximum=1)] = 1.0
    """Write with the smallest set of tokens that has this much probability; small models lose their thread at 1."""
    budget_tokens: Annotated[int, Range(minimum=1)] | None = None
    """Prompts and answers together, of all processes and runs in this folder."""
    prompt_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of prompts, to be shown."""
    answer_price: Annotated[float, Range(minimum=0)] = 0.0
    """Money for a million tokens of answers."""
    unsafe: bool = False
    """Run generated code also where nothing isolates it."""
    seed: int = 0
    batch_documents: Annotated[int, Range(minimum=1)] = 64

    @property
    def label(self) -> str:
        return self.kind

    def open_batch(self, context: StepContext) -> OfMany:
        """Raises InputError for a kind that is not there, or a sampler that cannot be opened."""
        kind = find_kind(self.kind, table=self.table)
        samplers = open_samplers(
            context,
            writer=self.sampler,
            judge=self.judge,
            budget_tokens=self.budget_tokens,
            prices=Prices(self.prompt_price, self.answer_price),
            label=self.label,
        )
        tools = Tools(
            writer=samplers.writer,
            judge=samplers.judge,
            journal=samplers.journal,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            unsafe=self.unsafe,
        )

        def synthesize(documents: Sequence[Document]) -> Iterable[Outcome]:
            fitting = [document for document in documents if self.takes(document, kind)]
            works = [
                work
                for document in fitting
                for work in start_works(document, kind, count=self.per_seed, seed=self.seed)
            ]
            done = run_chain(works, tools)
            samplers.show_costs()
            return list(self._outcomes(documents, kind, done, tools))

        return synthesize

    def bound(self, expected: Expected, count: CountTokens) -> tuple[Cost, list[Expected]]:
        """The works on a document, each with as many documents as the kind may make of it."""
        kind = find_kind(self.kind, table=self.table)
        document = expected.document
        is_made = expected.is_made or (document is not None and is_synthetic(document))
        following = [expected] if self.keep_seeds or is_made else []
        if document is not None and not self.takes(document, kind):
            return Cost(), following
        works = min(self.per_seed, kind.combinations)
        made = Expected(made_tokens(kind, expected.tokens, count), is_made=True)
        cost = kind_cost(kind, expected.tokens, count) * works
        return cost, following + [made] * (made_documents(kind) * works)

    def takes(self, document: Document, kind: SyntheticKind) -> bool:
        return bool(seed_sources(document, otherwise=self.seed_source) & set(kind.seeds))

    def _outcomes(
        self, documents: Sequence[Document], kind: SyntheticKind, works: Sequence[Work], tools: Tools
    ) -> Iterator[Outcome]:
        """The documents and their works, as they leave the step."""
        by_seed: dict[int, list[Work]] = {}
        for work in works:
            by_seed.setdefault(id(work.document), []).append(work)
        for document in documents:
            taken = self.takes(document, kind)
            if self.keep_seeds or (not taken and is_synthetic(document)):
                yield document
            elif not taken:
                sources = ", ".join(sorted(seed_sources(document, otherwise=self.seed_source)))
                yield Rejected(document, "other_seed", f"{kind.name} takes {', '.join(kind.seeds)}; this is {sources}")
            for work in by_seed.get(id(document), []):
                made = self._document(work, tools)
                rejection = work.rejection
                yield made if rejection is None else Rejected(made, rejection.reason, rejection.detail)

    def _document(self, work: Work, tools: Tools) -> Document:
        """The document that a work has become, or had become when it was rejected."""
        seed = work.document
        metadata: dict[str, Any] = {name: seed.metadata[name] for name in KEPT_OF_THE_SEED if name in seed.metadata}
        if work.messages is not None:
            metadata["messages"] = work.messages
        metadata |= work.keeps
        metadata["synthetic"] = self._origin(work, tools)
        return replace(seed, id=work.name, text=work.text, content=b"", media_type="", files={}, metadata=metadata)

    def _origin(self, work: Work, tools: Tools) -> dict[str, Any]:
        """The document's account of how it was made."""
        seed, kind = work.document, work.kind
        earlier = seed.metadata.get("synthetic")
        return {
            "kind": kind.name,
            "form": kind.form,
            "seed_document": seed.id,
            "seed_place": seed.place,
            "sampler": tools.writer.name,
            "judge": tools.judge.name,
            "prompt": {"name": kind.prompt.name, "sha256": kind.prompt.sha256},
            "choices": dict(work.choices),
            "settings": {
                "temperature": self.temperature,
                "top_p": self.top_p,
                "tokens": kind.tokens,
                "seed": work.seed,
                **{name: list(one) if isinstance(one, tuple) else one for name, one in kind.settings.items()},
            },
            "checks": list(kind.checks),
            "round": 1 + (int(earlier.get("round", 0)) if isinstance(earlier, dict) else 0),
            **work.found,
        }

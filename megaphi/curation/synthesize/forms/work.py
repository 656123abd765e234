"""A work: one synthetic document on its way, from a seed document through a draft, revisions and checks.

Works are handled in batches, so that the requests of all are in flight together. A work that is rejected keeps what it
had become, with its reason; every later part of the chain passes over it.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any, TypeVar

from megaphi.conversation import Conversation
from megaphi.curation.document import Document
from megaphi.curation.requests.asking import Missed, ask_texts, ask_values
from megaphi.curation.requests.metered import MeteredSampler
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.requests.template import Template
from megaphi.curation.synthesize.table.kind import SyntheticKind
from megaphi.curation.synthesize.table.kinds_file import our_prompt
from megaphi.grading.code_sandbox.sandbox import CodeSandbox
from megaphi.grading.grader import Grader
from megaphi.judging.asking import JsonQuestion
from megaphi.sampling import Sampling

Read = TypeVar("Read")
JUDGEMENT_TOKENS = 1_024
LARGEST_SEED = 1 << 31
"""Servers take seeds below it."""


@dataclass(kw_only=True, slots=True)
class Work:
    """One document to be, made of one seed document."""

    document: Document
    """The seed."""
    kind: SyntheticKind
    number: int
    """Among the works of the same seed."""
    choices: Mapping[str, str]
    seed: int
    """The seed of its draws."""
    data: dict[str, str] = field(default_factory=dict)
    """Everything written, by the name that prompts and checks use: question, answer, reasoning, code, tests."""
    text: str = ""
    """The document that comes out."""
    messages: list[dict[str, str]] | None = None
    found: dict[str, Any] = field(default_factory=dict)
    """For its metadata: scores, shares, spans."""
    keeps: dict[str, Any] = field(default_factory=dict)
    """Metadata of the document itself: tests, reference."""
    rejection: Missed | None = None

    @property
    def name(self) -> str:
        return f"{self.document.id}/{self.kind.name}/{self.number}"

    def reject(self, reason: str, detail: str = "") -> None:
        self.rejection = Missed(reason, detail)

    def part(self, number: int) -> Work:
        """The work on the item `number` of several that one draft gave."""
        return replace(self, number=self.number * 1_000 + number, data={}, found={}, keeps={}, messages=None)


class Tools:
    """Samplers, verifiers and the sandbox for the parts of a chain, opened when first needed."""

    def __init__(
        self,
        *,
        writer: MeteredSampler,
        judge: MeteredSampler,
        journal: StepJournal,
        temperature: float,
        seed: int,
        top_p: float = 1.0,
        unsafe: bool = False,
    ) -> None:
        self.writer, self.judge, self.journal = writer, judge, journal
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self._unsafe = unsafe
        self._open = ExitStack()
        self.close = weakref.finalize(self, self._open.close)

    @cached_property
    def grader(self) -> Grader:
        return self._open.enter_context(Grader(processes=1))

    @cached_property
    def sandbox(self) -> CodeSandbox:
        """Raises InputError where nothing isolates programs."""
        return self._open.enter_context(CodeSandbox(unsafe=self._unsafe))

    def rules(self, tokens: int) -> Sampling:
        """The rules for writing."""
        return Sampling(max_tokens=tokens, temperature=self.temperature, top_p=self.top_p)

    def write(self, works: Sequence[Work], prompts: Sequence[Conversation], *, tokens: int) -> list[str | None]:
        """A text for each work; one that gets none is rejected. Raises RunFailed, AffectsAll."""
        found = ask_texts(self.writer, prompts, self.rules(tokens), seeds=[work.seed for work in works])
        return [_or_reject(work, one) for work, one in zip(works, found, strict=True)]

    def write_values(
        self,
        works: Sequence[Work],
        prompts: Sequence[Conversation],
        read: Callable[[Any], Read],
        *,
        schema: Mapping[str, Any],
        tokens: int,
    ) -> list[Read | None]:
        """A value of JSON for each work; one that gets none is rejected. Raises RunFailed, AffectsAll."""
        return self._values(self.writer, works, prompts, read, schema, self.rules(tokens))

    def judge_values(
        self,
        works: Sequence[Work],
        prompts: Sequence[Conversation],
        read: Callable[[Any], Read],
        *,
        schema: Mapping[str, Any],
    ) -> list[Read | None]:
        """A judgement of each work, at temperature 0; a work without one is rejected. Raises RunFailed, AffectsAll."""
        return self._values(self.judge, works, prompts, read, schema, Sampling(max_tokens=JUDGEMENT_TOKENS))

    def _values(
        self,
        sampler: MeteredSampler,
        works: Sequence[Work],
        prompts: Sequence[Conversation],
        read: Callable[[Any], Read],
        schema: Mapping[str, Any],
        rules: Sampling,
    ) -> list[Read | None]:
        questions = [JsonQuestion(prompt.messages, read) for prompt in prompts]
        seeds = [work.seed for work in works] if rules.temperature else [0] * len(works)
        found = ask_values(sampler, questions, rules, schema=schema, memory=self.journal, seeds=seeds)
        return [_or_reject(work, one) for work, one in zip(works, found, strict=True)]

    def prompt(self, name: str, work: Work, /, *, plain: Mapping[str, str] | None = None, **data: str) -> Conversation:
        """A prompt of ours about a work."""
        return our_prompt(name).filled(plain=plain or {}, data=data, seed=self.seed, item=work.name)

    def draft_prompt(
        self, work: Work, /, *, note: str = "", plain: Mapping[str, str] | None = None, **data: str
    ) -> Conversation:
        """The prompt of the work's kind, with the note on the form of the answer behind it."""
        prompt = work.kind.prompt
        if note:
            form = our_prompt(note)
            fields = tuple(dict.fromkeys((*prompt.fields, *form.fields)))
            prompt = Template(prompt.name, f"{prompt.text}\n\n{form.text}", fields)
        return prompt.filled(plain={**work.choices, **(plain or {})}, data=data, seed=self.seed, item=work.name)


def _or_reject(work: Work, found: Read | Missed) -> Read | None:
    if isinstance(found, Missed):
        work.rejection = found
        work.text = work.text or found.said
        return None
    return found


def open_works(works: Iterable[Work]) -> list[Work]:
    """Those that are not rejected."""
    return [work for work in works if work.rejection is None]


def start_works(document: Document, kind: SyntheticKind, *, count: int, seed: int) -> list[Work]:
    """`count` works on a document, at most as many as there are combinations of choices, no two with the same ones."""
    digest = hashlib.blake2b(json.dumps([seed, document.id, kind.name]).encode(), digest_size=8).digest()
    random = Random(int.from_bytes(digest, "big"))
    drawn = random.sample(range(kind.combinations), min(count, kind.combinations))
    return [
        Work(
            document=document,
            kind=kind,
            number=number,
            choices=_choices_of(kind, combination),
            seed=random.randrange(LARGEST_SEED),
        )
        for number, combination in enumerate(drawn)
    ]


def _choices_of(kind: SyntheticKind, combination: int) -> dict[str, str]:
    """The combination of this number, as digits of a number whose bases are the numbers of options."""
    chosen = {}
    for name, options in kind.choices.items():
        combination, digit = divmod(combination, len(options))
        chosen[name] = options[digit]
    return chosen

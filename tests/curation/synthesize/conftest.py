"""A fixture that takes a seed through the chain of a kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.curation.document import Document
from megaphi.curation.requests.metered import MeteredSampler
from megaphi.curation.requests.step_journal import StepJournal
from megaphi.curation.synthesize.forms.chain import run_chain
from megaphi.curation.synthesize.forms.work import Tools, Work, start_works
from megaphi.curation.synthesize.table.kinds_file import find_kind
from tests.curation.synthesize.chains import PAGE, Say
from tests.curation.synthesize.scripted import Scripted, seed


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    """(kind, what the model says, the seed, settings that replace the kind's) -> works at the end of the chain."""
    opened: list[Tools] = []

    def works(
        name: str,
        say: Say,
        document: Document | str = PAGE,
        *,
        count: int = 1,
        tokens: int = 50_000,
        budget: int | None = None,
        **changed: Any,
    ) -> list[Work]:
        kind = find_kind(name)
        checks = changed.pop("checks", kind.checks)
        kind = replace(kind, tokens=tokens, settings={**kind.settings, **changed}, checks=checks)
        journal = StepJournal(tmp_path / str(len(opened)))
        sampler = MeteredSampler(Scripted(say), journal, place="x", budget_tokens=budget)
        tools = Tools(writer=sampler, judge=sampler, journal=journal, temperature=1.0, seed=0)
        opened.append(tools)
        document = seed(document) if isinstance(document, str) else document
        return run_chain(start_works(document, kind, count=count, seed=0), tools)

    yield works
    for tools in opened:
        tools.close()

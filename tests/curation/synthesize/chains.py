"""Scripted answers that the tests of forms share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from megaphi.curation.synthesize.forms.work import Work
from megaphi.sampling import Sampling
from tests.curation.synthesize.scripted import wants

PAGE = (
    "Copper conducts heat about twenty times better than steel. A pan of copper is therefore evenly warm. "
    "Steel pans get a core of copper or aluminium for the same reason.\n\nHandles are made of wood."
)
LONG = " ".join(f"word{number}" for number in range(400))
Say = Callable[[str, Sampling, int], str]


def says(by_fields: Mapping[tuple[str, ...], Any], text: str | list[str] = "") -> Say:
    """Values by the fields of the JSON that is asked for; texts one after the other, the last one for ever."""
    texts = [text] if isinstance(text, str) else list(text)

    def say(prompt: str, rules: Sampling, number: int) -> str:
        fields = wants(rules)
        if not fields:
            return texts.pop(0) if len(texts) > 1 else texts[0]
        value = by_fields[fields]
        return json.dumps(value(prompt) if callable(value) else value)

    return say


PAIRS = ("items", "question", "reasoning", "answer")
CHAINS = ("items", "question", "steps", "answer")
QUESTIONS = ("items", "question")
CHOICES = ("items", "question", "options")
TURNS = ("turns", "speaker", "text")
TASK = ("task", "function", "signature")
SCORED = ("findings", "score")
CRITIQUE = ("faults", "score")
SUPPORT = ("claims", "claim", "quote")
GOOD = {"findings": "good", "score": 4}
QUOTED = {"claims": [{"claim": "copper conducts well", "quote": "Copper conducts heat about  TWENTY times better"}]}


def reasons(works: list[Work]) -> list[str | None]:
    return [work.rejection.reason if work.rejection else None for work in works]

"""The step that masks personal data; `kinds.py` says what it finds, and what not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from megaphi.curation.document import Document
from megaphi.curation.filter.personal_data.kinds import KINDS, DataKind, is_address
from megaphi.curation.step import OfOne, StepContext
from megaphi.errors import InputError, did_you_mean

PERSONAL_DATA = "personal_data"
"""Metadata key: how many of each kind were masked; absent where there was none."""
CHARACTERS_BEFORE = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalData:
    """Replace personal data in texts (their number by kind in metadata `personal_data`); rejects nothing."""

    VERSION: ClassVar[int] = 1
    kinds: tuple[str, ...] = tuple(KINDS)
    """Any of private_key, jwt, api_key, email, iban, card, social_security, ip_address, telephone."""
    replacement: str = "[{kind}]"
    """The text in the datum's place; `{kind}` in it becomes its kind in upper case."""
    private_addresses: bool = False
    """Mask internet addresses of private networks, this machine and documentation too."""

    def open(self, context: StepContext) -> OfOne:
        kinds = self._kinds()

        def mask(document: Document) -> Document:
            text, counts = masked(document.text, kinds, self._replacement)
            return replace(document, text=text).known(**{PERSONAL_DATA: counts}) if counts else document

        return mask

    def _kinds(self) -> dict[str, DataKind]:
        for name in self.kinds:
            if name not in KINDS:
                raise InputError(f"kinds: there is no kind {name!r}.{did_you_mean(name, KINDS)} {', '.join(KINDS)}")
        chosen = {name: kind for name, kind in KINDS.items() if name in self.kinds}
        if self.private_addresses and "ip_address" in chosen:
            chosen["ip_address"] = replace(chosen["ip_address"], holds=is_address)
        return chosen

    def _replacement(self, kind: str) -> str:
        return self.replacement.replace("{kind}", kind.upper())


def masked(text: str, kinds: dict[str, DataKind], replacement: Callable[[str], str]) -> tuple[str, dict[str, int]]:
    """The text with all data of these kinds replaced, and how many there were of each kind that came."""
    counts: Counter[str] = Counter()
    for name, kind in kinds.items():
        if kind.hint.search(text) is None:
            continue
        text = kind.pattern.sub(_replacer(name, kind, replacement(name), counts), text)
    return text, dict(counts)


def _replacer(name: str, kind: DataKind, replacement: str, counts: Counter[str]) -> Callable[[re.Match[str]], str]:
    def replaced(found: re.Match[str]) -> str:
        start, stop = found.span("value") if "value" in found.re.groupindex and found["value"] else found.span()
        text = found.string
        if not kind.holds(text[start:stop], text[max(0, start - CHARACTERS_BEFORE) : start]):
            return found.group()
        counts[name] += 1
        return text[found.start() : start] + replacement + text[stop : found.end()]

    return replaced

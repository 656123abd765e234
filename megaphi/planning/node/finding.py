"""The result of one check of a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "unknown", "FAIL"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One row of the table: what was looked at, what was found, and whether the node may train with that."""

    check: str
    found: str
    """In words: what is there, or why it could not be looked at."""
    verdict: Verdict = "ok"

"""The forms of output files: records as JSON lines, reports as Markdown, and what was left out, by name and reason.

No text of a model is markup in a report. Whatever a verb leaves out goes through `MissingItems`: none is lost silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaphi.files import whole_file
from megaphi.foreign.markdown_cell import in_cell
from megaphi.pivotal.methods.findings import Band


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines; a lone surrogate is written as its escape."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    _write(path, "".join(lines))


def write_report(path: Path, lines: Sequence[str]) -> None:
    _write(path, "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def said(band: Band | None) -> str:
    """An estimate with its 95 % interval."""
    if band is None:
        return "not defined here"
    return f"{band.estimate:.3f} (95 % interval {band.low:.3f} to {band.high:.3f})"


@dataclass(slots=True)
class MissingItems:
    """Items that are missing in an output."""

    items: list[tuple[str, str, str]] = field(default_factory=list)
    """(reason, name of the item, details of this one)"""

    def add(self, reason: str, name: str, details: str = "") -> None:
        self.items.append((reason, name, details))

    @property
    def counts(self) -> Mapping[str, int]:
        """By reason, in the order in which they first came up."""
        return Counter(reason for reason, _, _ in self.items)

    def records(self) -> list[dict[str, str]]:
        """One for each item, for a file."""
        return [{"name": name, "reason": reason, "details": details} for reason, name, details in self.items]

    def table(self) -> list[str]:
        """Lines of Markdown: reasons with counts, and the first item of each."""
        if not self.items:
            return ["Nothing was left out."]
        first = {reason: name for reason, name, _ in reversed(self.items)}
        rows = [
            f"| {in_cell(reason)} | {count:,} | {in_cell(first[reason])} |" for reason, count in self.counts.items()
        ]
        return ["| left out because | count | first |", "|---|---:|---|", *rows]

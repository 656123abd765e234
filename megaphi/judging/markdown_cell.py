"""Texts of models and of strangers in Markdown reports: nothing in them is markup."""

from __future__ import annotations

LONGEST_CELL = 120


def in_cell(text: str) -> str:
    """A text as the cell of a Markdown table: one line, shortened, nothing in it is markup."""
    line = " ".join(text.split())
    shown = line if len(line) <= LONGEST_CELL else f"{line[: LONGEST_CELL - 3]}..."
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!" else letter for letter in shown)

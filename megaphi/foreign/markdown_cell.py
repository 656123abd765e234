"""Names and texts of models and strangers in Markdown reports: nothing in them is markup.

Every report.md puts them in with this one function; the HTML pages escape everything through their templates. A report
is also read in a terminal, so what a terminal would obey is shown too (`visible_text.py`).
"""

from __future__ import annotations

import re

from megaphi.foreign.visible_text import visible

LONGEST_CELL = 120
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|!&~]")


def in_cell(text: str, *, longest: int = LONGEST_CELL) -> str:
    """A text as the cell of a Markdown table: one line, shortened, nothing in it is markup."""
    line = visible(" ".join(text.split()))
    shown = line if len(line) <= longest else f"{line[: longest - 3]}..."
    return _MARKUP.sub(r"\\\g<0>", shown)

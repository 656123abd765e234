"""Text as it is shown in a terminal and in logs: what a terminal would obey is made visible.

A file, a folder, a tensor or an answer may have a name or a text with an escape in it that clears the screen, turns
writing around, or begins a line that looks like a message of ours. One function replaces such characters, at the border
where text leaves the program: the two standard streams (cli/__init__.py) and the log (log.py). There
the further lines of a value that has several are indented too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

_OBEYED = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")
"""Characters that a terminal obeys instead of showing: controls, and those that turn the direction of writing."""

_LINE_ENDS = re.compile("[\t\n\v\f\r\u2028\u2029]")


def visible(text: str) -> str:
    """Text in which nothing is obeyed by a terminal: such characters are shown as Python writes them."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_one_line(name: str) -> bool:
    """Return whether a terminal shows all of `name`, and that in one line: no control is in it, nor a line's end."""
    return _OBEYED.search(name) is None and not _LINE_ENDS.search(name)


def one_line(text: str) -> str:
    """`visible`, in which ends of lines and tabs are blanks."""
    return visible(_LINE_ENDS.sub(" ", text))


def one_message(text: str) -> str:
    """`visible`, with all further lines indented, so that none of them can pass for a message of its own."""
    return re.sub(r"\n(?!  |\n)", "\n  ", visible(text))


def print_text(text: str, *, end: str = "\n") -> None:
    """Print a text whose lines are its own, as that of a model: `visible`, and otherwise as it is."""
    stream = getattr(sys.stdout, "raw", sys.stdout)
    stream.write(visible(text) + end)
    stream.flush()


class VisibleStream:
    """A text stream on which each `print` of a value is `one_message`: names and texts of strangers do not reach the
    terminal as they are, and begin no line of their own. Lines are printed with `print(*lines, sep="\\n")`.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        """The stream itself, for colours and progress bars of our own."""

    def write(self, text: str) -> int:
        body = text.rstrip("\n")
        return self.raw.write(one_message(body) + text[len(body) :])

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

"""The one exception that means "the input was wrong", as opposed to "the program is wrong".

Everything a user can get wrong (a field, a file, a layout, a checkpoint) is raised as `InputError` with one message
that says what was wrong, where, and what to do. The command line prints it without a traceback and exits with 2;
any other exception is a bug and keeps its traceback and exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST_MESSAGE = 16_000
"""Characters: a few hundred lines."""
LONGEST_WORD = 200
"""Characters of a name for which a similar one is looked for: the search takes quadratic time."""


class InputError(ValueError):
    """Bad input from outside: what was wrong, where (file, line, field), what to do. Exit code 2.

    A message that quotes a stranger's file could be as long as the file: it is cut.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message), LONGEST_MESSAGE))


class AffectsAll(InputError):
    """Bad input that is no fault of one prompt or record: the others would meet it too, as a key that is refused."""


class CannotWrite(AffectsAll):
    """A file of ours cannot be written."""


class ReportedElsewhere(InputError):
    """Bad input that another rank of the job already reports: exit code 2, nothing more to print."""


class RunFailed(RuntimeError):
    """The run cannot continue, and the message says everything: no traceback."""

    exit_code = 1


class RestartNeeded(RunFailed):
    """This process cannot continue, but the same command started again can (EX_TEMPFAIL)."""

    exit_code = 75


def shortened(text: str, most: int) -> str:
    """The text, without its middle if it has more than `most` characters."""
    left_out = len(text) - most
    return (
        text if left_out <= 0 else f"{text[: most * 3 // 4]} [... {left_out:,} characters ...] {text[-(most // 4) :]}"
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'layout.tensor'?"` when something known is close to `word`, else the empty string."""
    if len(word) > LONGEST_WORD:
        return ""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""

"""Pandoc, run on one source with limits: LaTeX, JATS, DOCX or ePub in, Markdown out.

Pandoc starts in 20 ms, so each source has a process of its own. It reads no file but its input (`--sandbox`), finds no
settings of the user, and has limits on heap, CPU time and output. `markdown.lua` decides what the Markdown looks like,
and keeps what pandoc alone would drop.
"""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from megaphi.curation.extract.found import Extracted, NotExtracted
from megaphi.curation.extract.marks import Marks, restored

FILTER = Path(__file__).with_name("markdown.lua")
HEAP = "1g"
OUT_OF_HEAP = 251
"""Exit status of GHC's runtime."""
CPU_SECONDS = 30.0
"""Without a timer that ends the process."""
WALL_SECONDS = 300
LONGEST_OUTPUT = 256 << 20
FORMULA = "\2"
"""The character that `markdown.lua` sets before each formula; no format may hold it."""
_DISPLAYED = re.compile(r"^\x02\$\$(.*?)\$\$[ \t]*$", re.MULTILINE | re.DOTALL)
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_FENCED = re.compile(r"(^(?P<fence>```+)[^\n]*\n.*?^(?P=fence)[ \t]*$)", re.MULTILINE | re.DOTALL)
WRITER = "markdown" + "".join(
    f"-{extension}"
    for extension in (
        "fenced_divs bracketed_spans header_attributes link_attributes fenced_code_attributes inline_code_attributes "
        "simple_tables multiline_tables smart citations raw_html raw_tex tex_math_dollars"
    ).split()
)


class PandocFailed(Exception):
    """Pandoc cannot read a source. The message is its own."""


@cache
def pandoc_path() -> str:
    import pypandoc

    return pypandoc.get_pandoc_path()


def to_markdown(source: bytes, reader: str) -> str:
    """The source as Markdown.

    Args:
        reader: pandoc's name of the format, with extensions.

    Raises:
        PandocFailed: it cannot be parsed.
        NotExtracted: it takes too much time or memory.
    """
    command = [pandoc_path(), "--sandbox", "+RTS", f"-M{HEAP}", "-RTS", "-f", reader, "-t", WRITER]
    command += ["--wrap=none", f"--lua-filter={FILTER}"]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as said:
        given.write(source)
        given.seek(0)
        environment = {"PATH": "", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
        process = subprocess.Popen(command, stdin=given, stdout=output, stderr=said, env=environment, cwd="/")
        used = _seconds_of_children()
        try:
            _limit(process.pid, _seconds_left())
            status = process.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotExtracted("too_slow", f"pandoc, more than {WALL_SECONDS} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            _charge(_seconds_of_children() - used)
        if status == 0:
            output.seek(0)
            return output.read().decode("utf-8", "replace")
        said.seek(0)
        raise _failure(status, said.read(1 << 16).decode("utf-8", "replace"))


def extracted(
    source: bytes, reader: str, *, formulas: int, marks: Marks | None = None, found: Mapping[str, Any]
) -> Extracted:
    """The text of a document and its title.

    Args:
        marks: those that stand in the source.
        formulas: in the source, as counted without pandoc.
        found: further metadata.

    Raises:
        NotExtracted: it cannot be parsed, or holds no text.
    """
    try:
        text = to_markdown(source, reader)
    except PandocFailed as error:
        raise NotExtracted("malformed", str(error)) from None
    kept = text.count(FORMULA) + (len(set(marks.pattern.findall(text))) if marks else 0)
    text = _DISPLAYED.sub(_display, text).replace(FORMULA, "")
    text = tidied(restored(text, marks) if marks else text)
    if not text:
        raise NotExtracted("empty")
    title = re.match(r"# (.+)", text)
    named = {"title": title[1]} if title else {}
    return Extracted(text, {"formulas": formulas, "formulas_kept": min(kept, formulas), **named, **found})


def _display(found: re.Match[str]) -> str:
    return f"$$\n{found[1].strip()}\n$$"


def tidied(text: str) -> str:
    """The text without ties, spaces at the ends of lines and runs of empty lines, outside code."""
    parts = _FENCED.split(text)
    for place in range(0, len(parts), 3):
        parts[place] = re.sub(r"\n{3,}", "\n\n", _TRAILING.sub("", parts[place].replace("\xa0", " ")))
    kept = [part for place, part in enumerate(parts) if place % 3 != 2]
    return "".join(kept).strip()


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds_left() -> float:
    """CPU time that the file still has: that of the timer which ends an extractor (`bounded.py`), if it runs."""
    return signal.getitimer(signal.ITIMER_PROF)[0] or CPU_SECONDS


def _charge(seconds: float) -> None:
    """Take pandoc's time off the file's, which then ends this process where nothing is left."""
    left = signal.getitimer(signal.ITIMER_PROF)[0]
    if left:
        signal.setitimer(signal.ITIMER_PROF, max(left - seconds, 1e-6))


def _limit(pid: int, seconds: float) -> None:
    whole_seconds = math.ceil(seconds)
    try:
        resource.prlimit(pid, resource.RLIMIT_CPU, (whole_seconds, whole_seconds))
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (LONGEST_OUTPUT, LONGEST_OUTPUT))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except ProcessLookupError:
        pass  # done already
    except PermissionError:
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 (a zombie has no path of its own)
            raise


def _failure(status: int, said: str) -> Exception:
    if -status in (signal.SIGXCPU, signal.SIGKILL):
        return NotExtracted("too_slow", "pandoc, more CPU time than was left")
    if status == OUT_OF_HEAP:
        return NotExtracted("out_of_memory", f"pandoc, more than {HEAP} of heap")
    if -status == signal.SIGXFSZ or "file too large" in said.lower():
        return NotExtracted("too_large", f"more than {LONGEST_OUTPUT >> 20} MiB of text")
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("[")]
    return PandocFailed(" ".join(lines)[:300] or f"exit status {status}")

"""Extractors in a child: every way to fail is a reason, and the next file is read as if nothing had happened."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from megaphi.curation.extract.bounded import Bounded
from megaphi.curation.extract.found import NotExtracted
from megaphi.curation.extract.pandoc.run import to_markdown
from megaphi.errors import InputError

CHILD = Bounded("tests.curation.extract.misbehaving:misbehave", memory_bytes=1 << 30, cpu_seconds=1.0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("loop", "too_slow"),
        ("memory", "out_of_memory"),
        ("abort", "crashed"),
        ("deep", "malformed"),
        ("bug", "malformed"),
        ("refuse", "encrypted"),
    ],
)
def test_every_failure_is_a_reason_and_the_next_file_is_read(content: str, reason: str) -> None:
    with pytest.raises(NotExtracted) as raised:
        CHILD(content.encode(), media_type="a/b", files={})
    assert raised.value.reason == reason
    found = CHILD(b"fine", media_type="a/b", files={"x/y": b"\0\n"})
    assert found.text == "fine a/b [('x/y', b'\\x00\\n')] ?"


def test_one_child_reads_many_files_and_what_it_prints_is_no_answer() -> None:
    processes = {CHILD(b"print", media_type="", files={}).metadata["process"] for _ in range(5)}
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_options_reach_the_function() -> None:
    child = Bounded("tests.curation.extract.misbehaving:misbehave", options=(("suffix", "."),))
    assert child(b"fine", media_type="", files={}).text.endswith(".")


def test_a_library_that_is_missing_is_no_fault_of_the_file() -> None:
    with pytest.raises(InputError, match=r"no_such_library.*pip install 'megaphi\[curation\]'"):
        Bounded("no_such_library:f")(b"", media_type="", files={})


def test_the_time_of_pandoc_is_that_of_the_file() -> None:
    heavy = b"\\begin{itemize}\\item a\\end{itemize}\n\n" * 500
    signal.setitimer(signal.ITIMER_PROF, 200.0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        to_markdown(heavy, "latex")
        left = signal.getitimer(signal.ITIMER_PROF)[0]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert used > 0
    assert left <= 200.0 - used

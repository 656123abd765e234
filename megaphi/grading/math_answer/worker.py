"""A process that compares pairs of key and answer, one after another, under limits that end it rather than the parent.

It reads a JSON line `[key, answer]` and writes two: the finding of the exact verifier, then that of SymPy, so that the
first is known if the second never ends. Processor time is limited for each pair (the kernel ends the process),
address space for all; it opens no file for writing and starts no process. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import astuple
from typing import IO

from megaphi.grading.math_answer.exact_verifier import compare_exactly

READY = "ready"


def main(cpu_seconds: int, memory_megabytes: int) -> None:
    """Serve until the input ends; the results go to a descriptor that no library knows."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from megaphi.grading.math_answer.sympy_verifier import compare_by_sympy, prepare

    prepare()
    _limit(memory_megabytes)
    _write(results, READY)
    for line in sys.stdin:
        key, answer = json.loads(line)
        _limit_processor(cpu_seconds)
        _write(results, astuple(compare_exactly(key, answer)))
        _write(results, astuple(compare_by_sympy(key, answer)))


def _write(results: IO[str], value: object) -> None:
    results.write(json.dumps(value) + "\n")
    results.flush()


def _limit(memory_megabytes: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory_megabytes << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        resource.setrlimit(kind, (most, most))


def _limit_processor(seconds: int) -> None:
    """End the process when it has used `seconds` more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, hardest))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""The fuzzer notices every kind of misbehaviour and makes its input smaller; the short form of all targets is clean."""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import fuzzing
from tests.fuzz.fuzzing import fuzz
from tests.fuzz.misbehaving import MISBEHAVING, WORDS
from tests.fuzz.mutators import LARGEST_INPUT, mutated
from tests.fuzz.target import all_targets
from tests.fuzz.worker import Worker

ROOT = Path(__file__).parents[2]


def test_every_misbehaviour_is_a_finding() -> None:
    worker = Worker(MISBEHAVING)
    kinds = {word.decode(): worker.ask(word).kind for word in WORDS}
    worker.close()
    assert kinds == {
        "read": "accepted", "reason": "refused", "segfault": "crash", "exit": "crash", "loop": "hang", "wait": "hang",
        "raise": "exception", "silent": "message", "fill": "memory", "more": "memory", "other": "refused",
    }  # fmt: skip


def test_memory_that_the_parent_has_freed_is_counted() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    blocks = [libc.malloc(100_000) for _ in range(1500)]
    for block in blocks[:-1]:  # the last keeps 150 MB of resident free memory in the heap
        ctypes.memset(block, 1, 100_000)
        libc.free(ctypes.c_void_p(block))
    worker = Worker(MISBEHAVING)
    outcome = worker.ask(b"fill")
    worker.close()
    libc.free(ctypes.c_void_p(blocks[-1]))
    assert outcome.kind == "memory"


def test_one_finding_for_each_cause_small_and_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "SMALLER_SECONDS", 8.0)
    tally = fuzz(MISBEHAVING, inputs=len(WORDS), seconds=60, folder=tmp_path)
    assert tally.inputs == len(WORDS)
    assert sorted(kind for kind, _ in tally.findings) == [
        "crash", "crash", "exception", "hang", "memory", "memory", "message"
    ]  # fmt: skip
    found = {file.read_bytes().strip() for file in tmp_path.iterdir() if file.suffix != ".txt"}
    assert {b"segfault", b"exit", b"raise", b"silent", b"fill", b"more"} == found - {b"loop", b"wait"}
    text = next(tmp_path.glob("*exception*.txt")).read_text()
    assert "KeyError" in text
    assert "--targets 'misbehaving' --repeat" in text


def test_the_same_number_is_the_same_damage() -> None:
    for target in all_targets().values():
        seeds = [b"{}", b"PK\x03\x04" + bytes(40), b"<a b='1'>1</a>", bytes(range(256)) * 9]
        for number in range(50):
            first, second = (mutated(target, seeds, random.Random(number)) for _ in range(2))
            assert first == second
            assert len(first) <= LARGEST_INPUT


def test_all_targets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", "0.1", "--findings", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_parquet_file_that_ended_the_process_is_refused() -> None:
    """Its column says a histogram of another size: pyarrow lets the exception of C++ through (found by the fuzzer)."""
    worker = Worker(all_targets()["parquet"])
    outcome = worker.ask((Path(__file__).parent / "damaged_histogram.parquet").read_bytes())
    worker.close()
    assert outcome.kind == "refused"
    assert "is corrupted after row 0 of row group 0" in outcome.detail

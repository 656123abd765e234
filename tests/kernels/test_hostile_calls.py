"""Arguments that make no sense, given to every operator and class of the C++ modules past Python's own checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

REFUSED = {"TypeError", "ValueError", "IndexError"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "refused"), [("index", REFUSED), ("operators", {"RuntimeError", "NotImplementedError"})]
)
def test_nonsense_is_refused_and_nothing_crashes_hangs_or_takes_memory(calls: str, refused: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.hostile_calls", calls],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    outcomes = json.loads(done.stdout)
    assert len(outcomes) > 25
    assert {name: outcome for name, outcome in outcomes.items() if outcome not in refused} == {}

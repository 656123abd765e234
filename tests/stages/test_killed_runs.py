"""Killed with SIGKILL at random moments, most of them in the middle of a save, a run comes to the same end.

Here a few times per layout; `benchmarks/killed_runs.py` does a hundred and keeps the figures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megaphi.parallel.layout import ParallelLayout
from tests.processes import children_of
from tests.stages.killed_runs import EVERY, killed_run, outliving, tell

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("layout", "asynchronous", "bf16"),
    [(ParallelLayout(), True, True), (ParallelLayout(tensor=2, sequence_parallel=True), False, False)],
    ids=["one process, asynchronous, bf16", "tensor 2, synchronous, fp32"],
)
def test_a_run_that_is_killed_loses_one_interval_at_most(
    layout: ParallelLayout, asynchronous: bool, bf16: bool, tmp_path: Path
) -> None:
    run = killed_run(tmp_path, layout=layout, asynchronous=asynchronous, bf16=bf16)
    run = replace(run, training=replace(run.training, steps=60))
    straight = tell(replace(run, folder=str(tmp_path / "straight")), kills=0, seed=0)
    story = tell(run, kills=4, seed=1, during_save=2)
    assert story.damaged == []
    assert story.leftovers == []
    assert story.orphans == 0
    assert story.largest_loss <= (2 * EVERY if asynchronous else EVERY)
    assert story.losses == straight.losses
    assert story.digests == straight.digests


def test_a_child_that_stays_is_an_orphan_and_one_that_ends_is_not() -> None:
    parent = subprocess.Popen(["sh", "-c", "sleep 1 & sleep 300 & wait"])
    while len(children := children_of(parent.pid)) < 2:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    stayed = outliving(children)
    for child in stayed:
        os.kill(child, signal.SIGKILL)
    assert stayed == children[1:]

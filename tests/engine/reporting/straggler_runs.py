"""Ranks of the tests of step times: a run in which rank 1 is slower than the others."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from megaphi.parallel.layout import ParallelLayout
from tests.stages.killed_runs import killed_run
from tests.stages.stage_runs import stage_here

SLEEP_SECONDS = 0.03


def run_with_a_slow_rank(folder: Path, time_limit: str) -> dict[str, Any]:
    """Train without end but for the limit; adds how old this process is when it is done."""
    from megaphi.engine.objective import NextToken
    from megaphi.engine.time_limit import process_age_seconds

    rank = int(os.environ["RANK"])
    forward = NextToken.forward

    def slow(*arguments: Any, **keywords: Any) -> Any:
        result = forward(*arguments, **keywords)
        time.sleep(SLEEP_SECONDS * (rank == 1))
        return result

    NextToken.forward = slow
    run = killed_run(folder / str(rank), layout=ParallelLayout(data=2), asynchronous=True, bf16=False)
    run = replace(
        run,
        folder=str(folder / "run"),
        training=replace(run.training, steps=1_000_000, time_limit=time_limit),
        saving=replace(run.saving, every=50),
    )
    found = stage_here(run)
    return {**found, "records": [], "age": process_age_seconds()}

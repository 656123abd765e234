"""Ranks of test_lost_ranks.py: a verb that generates, until one of them fails."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path


def until_lost(folder: str, how: str, words: list[str]) -> int:
    """Run a command of megaphi; rank 1 is killed, stops or fails once there is a file `go`. Words go to files."""
    from megaphi.cli import main

    rank, go = int(os.environ["RANK"]), Path(folder) / "go"
    sys.stderr = open(Path(folder) / f"rank_{rank}", "w", buffering=1)  # noqa: SIM115 (open until the process ends)
    if rank == 1:
        (Path(folder) / "pid").write_text(str(os.getpid()))
        if how == "failed":
            _fail_in_a_step(go)
        else:
            threading.Thread(target=_signal_myself, args=(go, how), daemon=True).start()
    return main(words)


def _signal_myself(go: Path, how: str) -> None:
    while not go.exists():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)


def _fail_in_a_step(go: Path) -> None:
    from megaphi.generation.decoding.inference_engine import InferenceEngine

    step = InferenceEngine.step

    def failing(engine: InferenceEngine) -> object:
        if go.exists():
            raise ZeroDivisionError("its own fault")
        return step(engine)

    InferenceEngine.step = failing  # pyright: ignore[reportAttributeAccessIssue]

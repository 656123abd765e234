"""The process that talks to Weights & Biases, started by `wandb_board.py`.

It reads lines of JSON: the arguments of `wandb.init`, then metrics, then the outcome of the run. Whatever W&B does
(wait for a network, take over signals, hang at its exit) it does here, apart from training. The process ends when its
input does and ignores signals: those that stop a job reach all its processes, and the last metrics come after that.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, BinaryIO

CRASHED = 1
"""Exit code that W&B is given for a run whose process ended without reporting its outcome."""


def main(lines: BinaryIO) -> int:
    """Log until the input ends; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        _log(lines)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        print(f"{type(error).__name__}: {reason}", file=sys.stderr, flush=True)
        return 1
    return 0


def _log(lines: BinaryIO) -> None:
    import wandb  # pyright: ignore[reportMissingImports]

    run: Any = wandb.init(**json.loads(lines.readline()))
    # Steps that a resumed run takes again must not be refused, as those of W&B's own counter would be.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    exit_code = CRASHED
    for line in lines:
        if not line.endswith(b"\n"):
            break  # training stopped in the middle of a line
        record = json.loads(line)
        if "exit_code" in record:
            exit_code = record["exit_code"]
            break
        run.log(record)
    run.finish(exit_code=exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer))

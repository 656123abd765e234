"""A job of four ranks to which something happens: started, struck, watched; shared by the suite and the benchmark.

`megaphi train` on the tiny recipe, two tensor ranks times two replicas, saving every sixth step. What became of it is
read where its user would look: exit code, standard error, metrics.jsonl and events.jsonl of the run folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from megaphi.engine.reporting.events import read_events
from megaphi.engine.reporting.metrics import read_metrics
from tests.warm_megaphi import WarmMegaphi

HERE = Path(__file__).parent
RECIPE = f"{HERE / 'tiny_recipe.py'}:tiny"
STRUCK, SLOW = (f"task.objective={HERE / 'faulty_objectives.py'}:{name}" for name in ("Struck", "Slow"))
STEPS, EVERY, FAULT_STEP = 24, 6, 10
TIMEOUT_SECONDS = 150.0
Curve = list[tuple[int, float, float]]


class Process(Protocol):
    """The part of `subprocess.Popen` that a drill needs."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def send_signal(self, number: int) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float) -> tuple[str, str]: ...


def in_haste() -> None:
    """Run in the job's first process: no pause before a restart, and no picture at every save."""
    from megaphi.engine.training import loop
    from megaphi.parallel import restarts

    restarts.FIRST_PAUSE_SECONDS = 0.0
    loop.plot_losses = lambda *_, **__: None


def warm(words: list[str], variables: dict[str, str]) -> WarmMegaphi:
    return WarmMegaphi(words, env=variables, preexec_fn=in_haste)


class Drill:
    """A job, and what is seen of it.

    Args:
        words: further words of the command.
        strikes: step -> what happens to rank 1 in its forward pass: "killed", "stopped" or "hung".
        launch: starts `megaphi` with these words and variables.
    """

    def __init__(
        self,
        folder: Path,
        tokens: Path,
        *words: str,
        processes: int = 4,
        strikes: Mapping[int, str] | None = None,
        launch: Callable[[list[str], dict[str, str]], Any] = warm,
    ) -> None:
        self.run, self._struck = folder / "run", folder
        folder.mkdir(parents=True, exist_ok=True)
        variables = {**os.environ, "TINY_DATA": str(tokens), "OMP_NUM_THREADS": "1"}
        if strikes:
            planned = " ".join(f"{step} {name}" for step, name in strikes.items())
            variables |= {"STRUCK": str(folder), "STRIKES": planned}
            words = (STRUCK, *words)
        fields = [f"folder={self.run}", "layout.tensor=2", f"training.steps={STEPS}", f"saving.every={EVERY}"]
        fields += ["validation.every=0", "saving.asynchronous=false"]
        self.job: Process = launch(["train", RECIPE, *fields, "--processes", str(processes), *words], variables)

    def step(self) -> int:
        """The last step that was recorded."""
        records = read_metrics(self.run / "metrics.jsonl")
        return records[-1]["step"] if records else 0

    def has_struck(self, strike: str) -> bool:
        return (self._struck / strike).exists()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.run) if event["kind"] == kind]

    def seconds_until(self, is_so: Callable[[], object], what: str) -> float:
        """Wait until something is so; returns how long that took."""
        began = time.monotonic()
        while not is_so():
            has_ended = self.job.poll() is not None
            if has_ended or time.monotonic() - began > TIMEOUT_SECONDS:
                self.job.kill()
                raise AssertionError(f"{what}: not before the end; {self.end()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def end(self) -> tuple[int, str]:
        """(exit code, standard error)"""
        _, errors = self.job.communicate(timeout=TIMEOUT_SECONDS)
        return self.job.wait(), errors

    def curve(self) -> Curve:
        records = read_metrics(self.run / "metrics.jsonl")
        return [(record["step"], record["loss"], record["gradient_norm"]) for record in records]

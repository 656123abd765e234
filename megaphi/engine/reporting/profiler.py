"""A profiler that runs for a window of steps: of `profile.steps`, or when `megaphi profile RUN` asks a running job.

The request is a file in the run folder that rank 0 looks for every two seconds; the number of steps reaches the other
ranks in the reduction by which they compare their reasons to stop, so it costs no collective. Each chosen rank writes
into profiles/steps_FIRST-LAST/: a trace for Perfetto or chrome://tracing, a table of operators and, on a GPU, a
snapshot of memory for pytorch.org/memory_viz. Out of a window nothing is measured. No failure here ends a run.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.profile_request import take_request
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import profiled_steps
from megaphi.log import logger
from megaphi.parallel.world import World

FOLDER = "profiles"
SECONDS_BETWEEN_LOOKS = 2.0
MOST_OPERATORS = 40
MEMORY_EVENTS = 200_000
NONE = range(0)


class StepProfiler:
    """The profiler of one rank, in a run that continues after step `after`."""

    def __init__(self, run: RunConfig, world: World, events: Events, *, after: int) -> None:
        self._folder, self._world, self._events, self._after = Path(run.folder), world, events, after
        self._window = profiled_steps(run.profile)
        self._is_chosen = world.rank in run.profile.ranks
        self._ranks = run.profile.ranks
        self._looked = -SECONDS_BETWEEN_LOOKS
        self._profile: profile | None = None
        self._step = record_function("")
        """The range of the step under way, in a profile."""

    def __enter__(self) -> StepProfiler:
        self.after(self._after, asked=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._profile is not None:
            self._step.__exit__(None, None, None)
            self._attempt(self._write)

    def asked(self) -> int:
        """Steps that a request asks this run to profile now, on rank 0; 0 for none, and on other ranks."""
        if not self._world.is_main or time.monotonic() - self._looked < SECONDS_BETWEEN_LOOKS:
            return 0
        self._looked = time.monotonic()
        return take_request(self._folder)

    def after(self, step: int, *, asked: int) -> None:
        """Begin and end the window between two steps; `asked` is the same on all ranks."""
        if asked and step + 1 not in self._window:
            self._window = range(step + 1, step + 1 + asked)
        if self._profile is not None:
            self._step.__exit__(None, None, None)
            if step + 1 not in self._window:
                self._attempt(self._write)
        elif step + 1 in self._window and self._is_chosen:
            self._attempt(self._start)
        if self._profile is not None:
            self._step = record_function(f"step {step + 1}")
            self._step.__enter__()
        if self._window and step == self._window[-1]:
            steps = f"{self._window[0]}-{step}"
            ranks = f"rank{'s' * (len(self._ranks) != 1)} {', '.join(map(str, self._ranks))}"
            text = f"steps {steps} were profiled, by {ranks}"
            self._events.add("profiled", step=step, text=text, folder=f"{FOLDER}/steps_{steps}")
            self._window = NONE

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.start()
        logger.info("profiling steps %d to %d", self._window[0], self._window[-1])

    def _write(self) -> None:
        """End the profile and write its files, each whole or not at all."""
        ended, self._profile = self._profile, None
        assert ended is not None
        ended.stop()
        folder = self._folder / FOLDER / f"steps_{self._window[0]}-{self._window[-1]}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"rank_{self._world.rank:05d}"
        _whole(folder / f"{name}.trace.json.gz", ended.export_chrome_trace)
        on_gpu = self._world.device.type == "cuda"
        order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        table = ended.key_averages().table(sort_by=order, row_limit=MOST_OPERATORS)
        _whole(folder / f"{name}.operators.txt", lambda path: Path(path).write_text(table))
        if on_gpu:
            _whole(folder / f"{name}.memory", torch.cuda.memory._dump_snapshot)
            torch.cuda.memory._record_memory_history(enabled=None)
        logger.info("profile of this rank is in %s", folder)

    def _attempt(self, do: Callable[[], object]) -> None:
        """Call what belongs to the profile; if it fails there is no profile."""
        try:
            do()
        except Exception as error:
            self._profile = None
            logger.error("no profile of this rank: %s: %s", type(error).__name__, error)


def _whole(path: Path, write: Callable[[str], object]) -> None:
    """Let `write` fill a file beside `path`, and give it that name."""
    unfinished = path.with_name(f".unfinished.{path.name}")
    write(str(unfinished))
    os.replace(unfinished, path)

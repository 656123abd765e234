"""Many small runs of one folder, each an ordinary `megaphi train`, for what is fitted to their held-out losses.

Results go into a file that only grows; a run that is in it is not run again, and one that was stopped continues from
its checkpoint. What it needs on disk is removed when its result is written.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.config import to_plain
from megaphi.engine.reporting.metrics import read_metrics
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError, RunFailed
from megaphi.files import read_object, write_json
from megaphi.json_log import JsonLog
from megaphi.json_text import json_bytes, parse_json
from megaphi.log import progress_bar

NEVER = 10**9
"""Steps between checkpoints of a run: the last step and a stop save anyway. It is validated at its end only."""
LOSS = "validation_loss"
WITHOUT_EFFECT = {"patience", "wandb"}
"""Sections that change no loss."""
LAST_LINES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallRun:
    """One run."""

    name: str
    """Name of its folder."""
    command: Sequence[str]
    facts: Mapping[str, Any]
    """Values that make it this run and no other, as its result records them."""


def train_command(recipe: str, fields: Sequence[str], *, folder: Path, seed: int, processes: int = 1) -> list[str]:
    """The command of a run into `folder`, measured at its end."""
    own = [f"folder={folder}", f"seed={seed}", f"saving.every={NEVER}", "validation.every=0"]
    words = [sys.executable, "-m", "megaphi", "train", recipe, *fields, *own]
    return [*words, "--processes", str(processes)] if processes > 1 else words


class SmallRuns:
    """The runs of a folder, with the results that are there already."""

    def __init__(self, folder: Path, base: RunConfig, *, processes: int = 1, at_once: int = 1) -> None:
        """`base`: what all runs have in common. Raises InputError if the folder's runs had something else.

        Args:
            processes: ranks of each run.
            at_once: runs at the same time.
        """
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        """Finished run to its record."""
        self._processes, self._at_once = processes, at_once
        _keep_plan(folder / "trials.json", base)
        self._log = JsonLog(folder / "results.jsonl", self._known, what="the result of a trial", exclusive=True)

    def _known(self, record: Any) -> None:
        record["loss"] = {name: float(loss) for name, loss in record["loss"].items()}
        self.results[record["trial"]] = record

    def run(self, runs: Sequence[SmallRun], *, label: str) -> None:
        """Run those that have no result yet.

        Raises:
            InputError: a run of this name was another one.
            RunFailed: a run ended with an error; the others that were under way are ended by Ctrl-C only.
        """
        for one in runs:
            self._refuse_another(one)
        missing = [one for one in runs if one.name not in self.results]
        known = len(runs) - len(missing)
        with (
            progress_bar(total=len(runs), unit=" runs", initial=known, label=label) as bar,
            ThreadPoolExecutor(self._at_once) as pool,
        ):
            waiting = {pool.submit(self._run_one, one) for one in missing}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._note(future)
                        bar.update()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def close(self) -> None:
        self._log.close()

    def _refuse_another(self, one: SmallRun) -> None:
        before, now = self.results.get(one.name), parse_json(json_bytes(one.facts))
        changed = [] if before is None else [name for name, value in now.items() if before.get(name) != value]
        if changed:
            raise InputError(
                f"{self._log.path} has {one.name} with another value of {' and '.join(changed)}: choose another"
                " --output, or the options that it was begun with"
            )

    def _note(self, future: Future[dict[str, Any]]) -> None:
        record = future.result()
        self._log.add(record)
        self._known(record)
        shutil.rmtree(self.folder / "runs" / record["trial"] / "checkpoints", ignore_errors=True)

    def _run_one(self, one: SmallRun) -> dict[str, Any]:
        folder = self.folder / "runs" / one.name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (folder / "output.log").open("ab") as log:
            code = subprocess.run(
                one.command,
                stdout=log,
                stderr=log,
                env=self._environment(),
                preexec_fn=_stop_with_parent,
                check=False,
            ).returncode
        if code:
            lines = (folder / "output.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise RunFailed(f"{one.name} ended with code {code} (log: {folder / 'output.log'}):\n" + "\n".join(lines))
        measured = _held_out_losses(folder / "metrics.jsonl")
        return {"trial": one.name, **one.facts, **measured, "seconds": round(time.monotonic() - began, 1)}

    def _environment(self) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // (self._at_once * self._processes))
        return {"OMP_NUM_THREADS": str(threads), **os.environ}


def _stop_with_parent() -> None:
    """Executed in a run between fork and exec: if the process that started it is killed, it saves and ends."""
    if sys.platform == "linux":
        import ctypes

        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def _held_out_losses(metrics: Path) -> dict[str, Any]:
    """The last held-out loss, whole and of each source. Raises RunFailed if the run did not measure any."""
    measured = [record for record in read_metrics(metrics) if any(name.startswith(LOSS) for name in record)]
    if not measured:
        raise RunFailed(f"{metrics} has no held-out losses: the sources need validation_paths, or the run was stopped")
    by_source = {
        name.removeprefix(f"{LOSS}/"): loss for name, loss in measured[-1].items() if name.startswith(f"{LOSS}/")
    }
    return {"loss": by_source, LOSS: measured[-1].get(LOSS)}


def _keep_plan(path: Path, base: RunConfig) -> None:
    """Write the runs' configuration, or compare it with that of an earlier call."""
    now: Mapping[str, Any] = parse_json(json_bytes(to_plain(base)))
    now = {name: value for name, value in now.items() if name not in WITHOUT_EFFECT}
    if not path.exists():
        write_json(path, now)
        return
    before = read_object(path, what="configuration of the trials")
    if changed := sorted(name for name in {*now, *before} - WITHOUT_EFFECT if now.get(name) != before.get(name)):
        raise InputError(
            f"the trials in {path.parent} were run with other fields ({', '.join(changed)}): choose another --output"
        )

"""Running the trials: each is `megaphi train` with the recipe, the user's fields, and a mixture of its own.

A trial trains on one stage that has its shares, while the weights of the sources, from which the held-out samples are
taken, stay the recipe's: so every trial is measured on the same text. Results go into a file that only grows; a trial
that is in it is not run again, and one that was stopped continues from its checkpoint. What it needs on disk is
removed when its result is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
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
from megaphi.planning.mixture.trial import Trial

NEVER = 10**9
"""Steps between checkpoints of a trial: the last step and a stop save anyway. It is validated at its end only."""
LOSS = "validation_loss/"
LAST_LINES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SwarmSettings:
    """Command line and resources of the trials."""

    recipe: str
    """As `megaphi train` takes it."""
    fields: tuple[str, ...]
    """field=value of every trial: its size and length."""
    folder: Path
    processes: int = 1
    """Ranks of each trial."""
    at_once: int = 1
    """Trials at the same time."""


class Swarm:
    """The trials of a folder, with the results that are there already."""

    def __init__(self, settings: SwarmSettings, run: RunConfig) -> None:
        """`run`: the resolved configuration of a trial. Raises InputError if the folder's trials had another one."""
        self.settings = settings
        self.losses: dict[str, dict[str, float]] = {}
        """Finished trial to the held-out loss of each source, in nats per token."""
        self._identities: dict[str, str] = {}
        _keep_plan(settings.folder / "trials.json", run)
        self._results = JsonLog(
            settings.folder / "results.jsonl", self._known, what="the result of a trial", exclusive=True
        )

    def _known(self, record: Any) -> None:
        self.losses[record["trial"]] = {name: float(loss) for name, loss in record["loss"].items()}
        self._identities[record["trial"]] = record["identity"]

    def run(self, trials: Sequence[Trial], *, label: str) -> None:
        """Run those that have no result yet.

        Raises:
            InputError: a trial of this name was another one.
            RunFailed: a trial ended with an error; the others that were under way are ended by Ctrl-C only.
        """
        for trial in trials:
            if self._identities.get(trial.name, identity_of(trial)) != identity_of(trial):
                raise InputError(
                    f"{self._results.path} has {trial.name} with other shares or another seed: choose another --output,"
                    " or the --runs, --repeats, --held-out and --seed that it was begun with"
                )
        missing = [trial for trial in trials if trial.name not in self.losses]
        known = len(trials) - len(missing)
        with (
            progress_bar(total=len(trials), unit=" runs", initial=known, label=label) as bar,
            ThreadPoolExecutor(self.settings.at_once) as pool,
        ):
            waiting = {pool.submit(self._run_one, trial) for trial in missing}
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
        self._results.close()

    def _note(self, future: Future[dict[str, Any]]) -> None:
        record = future.result()
        self._results.add(record)
        self._known(record)
        shutil.rmtree(self.settings.folder / "runs" / record["trial"] / "checkpoints", ignore_errors=True)

    def _run_one(self, trial: Trial) -> dict[str, Any]:
        folder = self.settings.folder / "runs" / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (folder / "output.log").open("ab") as log:
            code = subprocess.run(
                command_of(self.settings, trial), stdout=log, stderr=log, env=self._environment(), check=False
            ).returncode
        if code:
            lines = (folder / "output.log").read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise RunFailed(f"{trial.name} ended with code {code} (log: {folder / 'output.log'}):\n" + "\n".join(lines))
        return {
            "trial": trial.name,
            "identity": identity_of(trial),
            "shares": dict(trial.shares),
            "seed": trial.seed,
            "loss": held_out_losses(folder / "metrics.jsonl"),
            "seconds": round(time.monotonic() - began, 1),
        }

    def _environment(self) -> dict[str, str]:
        ranks = self.settings.at_once * self.settings.processes
        threads = max(1, len(os.sched_getaffinity(0)) // ranks)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}


def command_of(settings: SwarmSettings, trial: Trial) -> list[str]:
    """The command line of a trial."""
    words = [
        sys.executable,
        "-m",
        "megaphi",
        "train",
        settings.recipe,
        *settings.fields,
        *trial_fields(settings, trial),
    ]
    return [*words, "--processes", str(settings.processes)] if settings.processes > 1 else words


def trial_fields(settings: SwarmSettings, trial: Trial) -> list[str]:
    shares = [{"name": name, "weight": share} for name, share in trial.shares.items() if share > 0]
    return [
        f"folder={settings.folder / 'runs' / trial.name}",
        f"seed={trial.seed}",
        f"saving.every={NEVER}",
        "validation.every=0",
        f"task.mixture.stages={json.dumps([{'name': 'trial', 'shares': shares}])}",
    ]


def held_out_losses(metrics: Path) -> dict[str, float]:
    """The last held-out loss of each source. Raises RunFailed if the run did not measure any."""
    measured = [record for record in read_metrics(metrics) if any(name.startswith(LOSS) for name in record)]
    if not measured:
        raise RunFailed(f"{metrics} has no held-out losses: the sources need validation_paths")
    return {name.removeprefix(LOSS): loss for name, loss in measured[-1].items() if name.startswith(LOSS)}


def identity_of(trial: Trial) -> str:
    plain = json.dumps([dict(trial.shares), trial.seed])
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _keep_plan(path: Path, run: RunConfig) -> None:
    """Write the trials' configuration, or compare it with that of an earlier call."""
    now: Mapping[str, Any] = parse_json(json_bytes(to_plain(run)))
    if not path.exists():
        write_json(path, now)
        return
    before = read_object(path, what="configuration of the trials")
    if changed := sorted(name for name in {*now, *before} if now.get(name) != before.get(name)):
        raise InputError(
            f"the trials in {path.parent} were run with other fields ({', '.join(changed)}): choose another --output"
        )

"""The trials of a mixture fit as small runs: each trains on one stage that has its shares.

The weights of the sources, from which the held-out samples are taken, stay the recipe's: so every trial is measured on
the same text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megaphi.engine.run_config import RunConfig
from megaphi.planning.mixture.trial import Trial
from megaphi.planning.small_runs import SmallRun, SmallRuns, train_command


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
        self._runs = SmallRuns(settings.folder, run, processes=settings.processes, at_once=settings.at_once)

    @property
    def losses(self) -> dict[str, dict[str, float]]:
        """Finished trial to the held-out loss of each source, in nats per token."""
        return {name: record["loss"] for name, record in self._runs.results.items()}

    def run(self, trials: Sequence[Trial], *, label: str) -> None:
        """Run those that have no result yet. Raises InputError and RunFailed as `SmallRuns.run` does."""
        self._runs.run([small_run_of(self.settings, trial) for trial in trials], label=label)

    def close(self) -> None:
        self._runs.close()


def small_run_of(settings: SwarmSettings, trial: Trial) -> SmallRun:
    """A trial's command, and what tells it from others."""
    facts = {"shares": dict(trial.shares), "seed": trial.seed}
    return SmallRun(name=trial.name, command=command_of(settings, trial), facts=facts)


def command_of(settings: SwarmSettings, trial: Trial) -> list[str]:
    """The command line of a trial."""
    shares = [{"name": name, "weight": share} for name, share in trial.shares.items() if share > 0]
    stage = f"task.mixture.stages={json.dumps([{'name': 'trial', 'shares': shares}])}"
    return train_command(
        settings.recipe,
        [*settings.fields, stage],
        folder=settings.folder / "runs" / trial.name,
        seed=trial.seed,
        processes=settings.processes,
    )

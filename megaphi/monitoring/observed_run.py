"""A run as its folder shows it, while it is going on, when it is over, or as a copy from another machine.

Everything that is read here may be half-written, old, or a stranger's. What is missing is left out, and what cannot be
read is named in `problems`; only a folder that is none of a run is refused. Nothing is locked and nothing is written,
so that looking at a run cannot disturb it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from megaphi.engine.reporting.events import read_events
from megaphi.engine.reporting.step_times import RankTimes, read_step_times
from megaphi.engine.run_lock import Holder, holder_of
from megaphi.errors import InputError
from megaphi.files import read_object
from megaphi.foreign.files import is_plain_name, read_line
from megaphi.monitoring.history import History

Found = TypeVar("Found")
RANK_STEPS = 50
"""Steps over which ranks are compared."""
SECONDS_BETWEEN_RANKS = 20.0
"""Least time between two looks at all ranks' files, of which there may be thousands."""


class ObservedRun:
    """One run folder; `refresh` looks at it again.

    Raises:
        InputError: the folder is none of a run.
    """

    def __init__(self, folder: Path) -> None:
        if not any((folder / name).exists() for name in ("metrics.jsonl", "config.json", "events.jsonl")):
            raise InputError(
                f"{folder} is no run folder: there is neither metrics.jsonl nor config.json in it. Give the folder of "
                "a run that has been started (`folder` of its configuration)"
            )
        self.folder = folder
        self.history = History(folder / "metrics.jsonl")
        self.config: Mapping[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.checkpoint: Mapping[str, Any] = {}
        """State of the newest checkpoint; empty without one."""
        self.holder: Holder | None = None
        self.ranks: dict[int, RankTimes] = {}
        self.problems: list[str] = []
        """Sentences on what cannot be read."""
        self._ranks_read = -SECONDS_BETWEEN_RANKS
        self.refresh()

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    def refresh(self) -> None:
        """Look again."""
        self.problems = []
        self._attempt(self.history.update, None)
        if self.history.damaged:
            self.problems.append(f"metrics.jsonl: {self.history.damaged:,} lines are no records, and were left out")
        self.config = self._attempt(self._read_config, self.config)
        self.events = self._attempt(lambda: read_events(self.folder), self.events)
        self.checkpoint = self._attempt(self._read_checkpoint, self.checkpoint)
        self.holder = holder_of(self.folder)
        if time.monotonic() - self._ranks_read > SECONDS_BETWEEN_RANKS:
            self.ranks = self._attempt(lambda: read_step_times(self.folder, last=RANK_STEPS), self.ranks)
            self._ranks_read = time.monotonic()

    def field(self, path: str, default: Any = None) -> Any:
        """A value of config.json by its dotted path."""
        node: Any = self.config
        for name in path.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        return default if node is None else node

    def number(self, path: str) -> int:
        """A whole number of config.json; 0 if it is none."""
        found = self.field(path)
        return found if type(found) is int else 0

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """The events of these kinds."""
        return [event for event in self.events if event["kind"] in kinds]

    def facts(self) -> Mapping[str, Any]:
        """Facts of the newest start: device, ranks, versions."""
        starts = self.of_kind("started", "resumed")
        return starts[-1] if starts else {}

    def _read_config(self) -> Mapping[str, Any]:
        path = self.folder / "config.json"
        return read_object(path, what="configuration") if path.exists() else {}

    def _read_checkpoint(self) -> Mapping[str, Any]:
        latest = self.folder / "checkpoints" / "latest"
        if not latest.exists():
            return {}
        name = read_line(latest)
        if not is_plain_name(name):
            raise InputError(f"{latest} does not hold the name of a checkpoint's folder")
        return read_object(latest.parent / name / "state.json", what="checkpoint state")

    def _attempt(self, read: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return read()
        except InputError as error:
            self.problems.append(str(error))
        except OSError as error:  # it may be going on, and files come and go
            self.problems.append(f"{error.filename}: {error.strerror}")
        return otherwise


def open_runs(folders: Iterable[str | Path]) -> list[ObservedRun]:
    """The runs of these folders, each named once. Raises InputError."""
    return [ObservedRun(folder) for folder in dict.fromkeys(Path(folder) for folder in folders)]

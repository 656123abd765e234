"""metrics.jsonl: one JSON object per step, in order, each step once, even if the run was resumed.

A run that continues from step k first drops the records after k: those steps will be taken again. The same numbers go
to boards: TensorBoard and, where a project is named, Weights & Biases. A board that fails does not end the run: the
failure is logged once, and the others continue.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from megaphi.config import to_plain
from megaphi.engine.boards.wandb_board import WandbBoard
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.files import explain_write_errors, write_text
from megaphi.foreign.files import TEXT_BYTES, read_small
from megaphi.json_text import is_number, parse_json
from megaphi.log import logger


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete records of a metrics.jsonl; a last line that a crash cut off is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    records = []
    lines = read_small(path, largest=TEXT_BYTES).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except InputError:
            record = None
        if _is_of_a_step(record):
            records.append(record)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: not valid JSON of a step; delete the file to start a new one")
    return records


def _is_of_a_step(record: Any) -> bool:
    """Return whether a record has the number of a step, and losses that can be drawn and compared."""
    return (
        isinstance(record, dict)
        and type(record.get("step")) is int
        and all(is_number(value) for name, value in record.items() if "loss" in name)
    )


class Board(Protocol):
    """A destination of a run's metrics; once it raises anything, it is not called again."""

    def add(self, record: dict[str, Any]) -> None:
        """Take one step's record."""
        ...

    def close(self) -> None:
        """End the board: the run has ended."""
        ...


class MetricsLog:
    """Writer of `folder/metrics.jsonl` and of boards, for records after step `after`.

    A full disk does not end the run: lines are kept in memory until there is space.
    """

    def __init__(self, folder: Path, *, after: int, boards: Mapping[str, Callable[[], Board]]) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["step"] <= after]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._waiting = b""
        self._boards: dict[str, Board] = {}
        for name, opened in boards.items():
            self._attempt(name, lambda opened=opened, name=name: self._boards.update({name: opened()}))

    def add(self, record: dict[str, Any]) -> None:
        """Append one step's record; the operating system has it before the next step starts."""
        had_to_wait = bool(self._waiting)
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not had_to_wait:
                logger.error("%s cannot be written (%s): its lines are kept in memory", self.path, error.strerror)
        for name, board in list(self._boards.items()):
            self._attempt(name, partial(board.add, record))

    def _attempt(self, name: str, use: Callable[[], object]) -> None:
        """Call a board; if that fails, never again."""
        try:
            use()
        except Exception as error:
            self._boards.pop(name, None)
            logger.error("%s fails (%s: %s): it stops here, metrics.jsonl has all", name, type(error).__name__, error)

    def close(self) -> None:
        """Raises InputError if lines are still waiting."""
        with explain_write_errors(self.path):
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        self._file.close()
        for name, board in list(self._boards.items()):
            self._attempt(name, board.close)


class TensorBoard:
    """TensorBoard's event files; events after step `after` are purged."""

    def __init__(self, folder: Path, *, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=after + 1)

    def add(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, global_step=record["step"])

    def close(self) -> None:
        self._writer.close()


def open_log(run: RunConfig, *, after: int) -> MetricsLog:
    """The metrics of a run that continues after step `after`, with its boards."""
    folder = Path(run.folder)
    boards: dict[str, Callable[[], Board]] = {
        "tensorboard": lambda: TensorBoard(folder / "tensorboard", after=after),
    }
    if run.wandb.project:
        boards["wandb"] = lambda: WandbBoard(folder, run.wandb, config=to_plain(run), after=after)
    return MetricsLog(folder, after=after, boards=boards)

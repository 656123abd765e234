"""metrics.jsonl: one JSON object per step, in order, each step once, whatever happened in between.

A run that continues from step k first drops the records after k: they belong to steps that will be taken again. The
same numbers go to TensorBoard where a writer is given.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import explain_write_errors, write_text
from megaphi.json_text import parse_json
from megaphi.log import logger


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete records of a metrics.jsonl; a last line that a crash cut off is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    records = []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except InputError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: not valid JSON of a step; delete the file to start it anew")
    return records


class MetricsLog:
    """Appends to `folder/metrics.jsonl` and `folder/tensorboard`, from the record after step `after` on.

    A disk that is full does not end the run: what it does not take is kept, and written when it does.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["step"] <= after]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed in close)
        self._waiting = b""
        self._board: Any = _tensorboard(folder / "tensorboard", after=after)

    def add(self, record: dict[str, Any]) -> None:
        """One step's record; with the operating system before the next step starts."""
        had_to_wait = bool(self._waiting)
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not had_to_wait:
                logger.error("%s cannot be written (%s): its lines wait in memory", self.path, error.strerror)
        self._add_to_board(record)

    def _add_to_board(self, record: dict[str, Any]) -> None:
        try:
            for name, value in record.items():
                if name != "step" and self._board is not None:
                    self._board.add_scalar(name, value, global_step=record["step"])
        except Exception as error:
            logger.error("tensorboard cannot be written (%s): it ends here, metrics.jsonl goes on", error)
            self._board = None

    def close(self) -> None:
        """Raises InputError if lines are still waiting."""
        with explain_write_errors(self.path):
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        self._file.close()
        with suppress(Exception):
            if self._board is not None:
                self._board.close()


def _tensorboard(folder: Path, *, after: int) -> Any:
    """A writer for TensorBoard, or None where that does not work here: the run is not worth less for it."""
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=after + 1)
    except Exception as error:
        logger.error("no tensorboard (%s: %s), metrics.jsonl has it all", type(error).__name__, error)
        return None

"""metrics.jsonl: one JSON object per step, in order, each step once, whatever happened in between.

A run that continues from step k first drops the records after k: they belong to steps that will be taken again. The
same numbers go to TensorBoard where a writer is given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import explain_write_errors, write_text


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All complete records of a metrics.jsonl; a last line that a crash cut off is left out."""
    path = Path(path)
    if not path.is_file():
        return []
    records = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise InputError(f"{path}, line {number}: not valid JSON; delete the file to start it anew") from None
    return records


class MetricsLog:
    """Appends to `folder/metrics.jsonl` and `folder/tensorboard`, from the record after step `after` on."""

    def __init__(self, folder: Path, *, after: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [record for record in read_metrics(self.path) if record["step"] <= after]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = open(self.path, "a")  # noqa: SIM115 (closed in close)
        self._board = _tensorboard(folder / "tensorboard", after=after)

    def add(self, record: dict[str, Any]) -> None:
        """One step's record; on disk before the next step starts."""
        with explain_write_errors(self.path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, global_step=record["step"])

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _tensorboard(folder: Path, *, after: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=after + 1)

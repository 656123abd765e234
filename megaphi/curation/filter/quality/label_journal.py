"""Labels that a model gave, in a folder that several processes share: each writes a file of its own and reads all.

A process takes the first file that nobody holds. What others add while it runs it does not see; the next run does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.json_log import JsonLog
from megaphi.json_text import parse_json

MOST_PROCESSES = 100_000


class LabelJournal:
    """Key of a request to its labels."""

    def __init__(self, folder: Path) -> None:
        """Read what is in the folder, and hold a file. Raises InputError for a damaged one."""
        self._labels: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("labels_*.jsonl")):
            *lines, _ = path.read_bytes().split(b"\n")  # what follows the last line end is being written, or was cut
            for line in lines:
                try:
                    self._remember(parse_json(line))
                except (ValueError, TypeError, KeyError):
                    raise InputError(f"{path}: a line is not a page's labels: mend it, or remove the file") from None
        self._log = self._held(folder)

    def __contains__(self, key: str) -> bool:
        return key in self._labels

    def get(self, key: str) -> dict[str, Any] | None:
        return self._labels.get(key)

    def add(self, key: str, labels: dict[str, Any]) -> None:
        record = {"page": key, "labels": labels}
        self._log.add(record)
        self._remember(record)

    def _held(self, folder: Path) -> JsonLog:
        for number in range(MOST_PROCESSES):
            path = folder / f"labels_{number:05d}.jsonl"
            try:
                return JsonLog(path, self._remember, what="a page's labels", exclusive=True)
            except InputError as error:
                if "another process" not in str(error):
                    raise
        raise InputError(f"{folder}: {MOST_PROCESSES:,} processes hold files of it")

    def _remember(self, record: Any) -> None:
        self._labels[str(record["page"])] = dict(record["labels"])

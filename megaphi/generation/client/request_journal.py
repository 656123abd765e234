"""Answers of a server, kept in a file, so that a second run makes no request twice.

A line of JSON per answer (`json_log.py`): the SHA-256 of what was asked (address and body) and what came back.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from megaphi.json_log import JsonLog


class RequestJournal:
    """Hash of a request to its response, in memory and in the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create a journal. Raises InputError for a corrupted line that is not the last, or a bad path."""
        self.path = Path(path)
        self._responses: dict[str, Any] = {}
        self._log = JsonLog(path, self._remember, what="an answer of a server")

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, key: str) -> Any | None:
        return self._responses.get(key)

    def add(self, key: str, response: Any) -> None:
        entry = {"request": key, "response": response}
        self._log.add(entry)
        self._remember(entry)

    def close(self) -> None:
        self._log.close()

    def _remember(self, entry: dict[str, Any]) -> None:
        self._responses[entry["request"]] = entry["response"]


def request_key(path: str, body: Any) -> str:
    """Hex SHA-256 of a request, independent of the order of its fields."""
    return hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()

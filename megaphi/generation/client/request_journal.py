"""Answers of samplers, kept in a file, so that a second run makes no request twice.

A line of JSON per answer (`json_log.py`): the SHA-256 of what was asked and what came back. What was asked is, of a
server, address and body; of our own engine the model's identity, the prompt's tokens, the rules, the sample's number.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megaphi.json_log import JsonLog


class RequestJournal:
    """Hash of a request to its response, in memory and in the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create a journal, and hold it.

        Raises:
            InputError: a damaged line, a file that cannot be written, or another process has it.
        """
        self.path = Path(path)
        self._responses: dict[str, Any] = {}
        self._log = JsonLog(path, self._remember, what="an answer of a sampler", exclusive=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

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

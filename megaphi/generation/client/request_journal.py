"""Answers of a server, kept in a file, so that a second run makes no request twice.

A line of JSON per answer: the SHA-256 of what was asked (address and body) and what came back. Lines are appended one
at a time in one write, from any thread; a last line that a crash cut short is dropped when the file is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import explain_write_errors
from megaphi.json_text import parse_json


class RequestJournal:
    """Hash of a request to its response, in memory and in the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open or create a journal. Raises InputError for a corrupted line that is not the last, or a bad path."""
        self.path = Path(path)
        self._lock = threading.Lock()
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab+", buffering=0)  # noqa: SIM115 (open as long as the journal)
        self._file.seek(0)
        self._responses, whole_bytes = _read(self._file.readall(), self.path)
        self._file.truncate(whole_bytes)

    def __len__(self) -> int:
        return len(self._responses)

    def get(self, key: str) -> Any | None:
        return self._responses.get(key)

    def add(self, key: str, response: Any) -> None:
        line = json.dumps({"request": key, "response": response}).encode() + b"\n"
        with self._lock, explain_write_errors(self.path):
            self._file.write(line)
            self._responses[key] = response

    def close(self) -> None:
        self._file.close()


def request_key(path: str, body: Any) -> str:
    """Hex SHA-256 of a request, independent of the order of its fields."""
    return hashlib.sha256(json.dumps([path, body], sort_keys=True).encode()).hexdigest()


def _read(content: bytes, path: Path) -> tuple[dict[str, Any], int]:
    """(responses, bytes up to the end of the last whole line)."""
    responses: dict[str, Any] = {}
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = parse_json(line)
            responses[entry["request"]] = entry["response"]
        except (ValueError, TypeError, KeyError):
            message = f"{path}: line {number} is not an answer of a server: mend it, or remove the file"
            raise InputError(message) from None
    return responses, len(content) - len(lines[-1])

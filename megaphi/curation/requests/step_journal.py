"""Answers and costs of one step of a run, shared by all processes that work on it.

Each process appends to a file of its own, the first that no other one holds, and reads the files of the others: what
any of them has paid for is asked by none again, and counts against the budget of all. Besides the samplers' answers
(`generation/client/request_journal.py`) a journal holds one account for each prompt: the tokens that it cost.
"""

from __future__ import annotations

import weakref
from itertools import count
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.generation.client.request_journal import RequestJournal
from megaphi.json_log import HeldElsewhere
from megaphi.json_text import parse_json

PAID = "paid"


class StepJournal(RequestJournal):
    """A journal of several files, of which this process writes one."""

    def __init__(self, folder: Path) -> None:
        """Open the first file of the folder that no other process holds, and read all of them.

        Raises:
            InputError: a damaged line, or a file that cannot be written.
        """
        self.prompt_tokens = self.answer_tokens = 0
        """Paid by all processes, as far as this one has read."""
        self._elsewhere: dict[str, tuple[Path, int, int]] = {}
        """Request -> file of another process, and the first byte and the bytes of the line."""
        self._read_bytes: dict[Path, int] = {}
        for number in count():
            try:
                super().__init__(folder / f"requests-{number}.jsonl")
                break
            except HeldElsewhere:
                continue
        self._close = weakref.finalize(self, self._log.close)
        self.refresh()

    @property
    def paid_tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def pay(self, key: str, *, prompt_tokens: int, answer_tokens: int) -> None:
        """Keep what a prompt cost."""
        self.add(key, {PAID: [prompt_tokens, answer_tokens]})

    def get(self, key: str) -> Any | None:
        known = super().get(key)
        if known is not None or key not in self._elsewhere:
            return known
        path, start, length = self._elsewhere[key]
        with open(path, "rb") as file:
            file.seek(start)
            return parse_json(file.read(length))["response"]

    def __contains__(self, key: str) -> bool:
        return key in self._elsewhere or super().get(key) is not None

    def refresh(self) -> None:
        """Read what other processes have added. Raises InputError for a line that is no answer."""
        for path in sorted(self.path.parent.glob("requests-*.jsonl")):
            if path != self.path:
                self._read_other(path)

    def close(self) -> None:
        self._close()

    def _read_other(self, path: Path) -> None:
        start = self._read_bytes.get(path, 0)
        if path.stat().st_size <= start:
            return
        with open(path, "rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):  # being written
                    break
                try:
                    entry = parse_json(line)
                    self._elsewhere[entry["request"]] = (path, start, len(line))
                    self._count(entry["response"])
                except (ValueError, TypeError, KeyError):
                    message = f"{path}: byte {start} does not begin an answer: mend it, or remove the file"
                    raise InputError(message) from None
                start += len(line)
        self._read_bytes[path] = start

    def _remember(self, entry: dict[str, Any]) -> None:
        super()._remember(entry)
        self._count(entry["response"])

    def _count(self, response: Any) -> None:
        if isinstance(response, dict) and PAID in response:
            self.prompt_tokens += int(response[PAID][0])
            self.answer_tokens += int(response[PAID][1])

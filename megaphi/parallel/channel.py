"""Messages between ranks through the job's key-value store, for threads that run beside training.

Collectives belong to the main thread: one started by another thread would interleave with those of training in a
different order on every rank. One rank writes a key of the store and the others wait for it. They poll instead of
blocking in the store, so that a wait can be cancelled and does not block other requests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Event
from typing import Any

import torch.distributed as distributed

from megaphi.parallel.rendezvous.signed_store import SignedStore

SHORTEST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.25


class CalledOff(Exception):
    """A wait was cancelled because the job is ending."""


class Channel:
    """Keys of the store under a prefix that no other channel uses."""

    def __init__(self, prefix: str, *, called_off: Event) -> None:
        self._store = SignedStore(distributed.distributed_c10d._get_default_store())
        self._prefix = prefix
        self._called_off = called_off

    def post(self, key: str, message: Any) -> None:
        """Post a message, which JSON must be able to hold, under a new key."""
        self._store.set(f"{self._prefix}/{key}", json.dumps(message))

    def wait(self, keys: Sequence[str]) -> list[Any]:
        """Wait for the messages of all keys, in order. Raises CalledOff."""
        names, pause = [f"{self._prefix}/{key}" for key in keys], SHORTEST_PAUSE_SECONDS
        while (messages := self._signed(names)) is None:
            if self._called_off.wait(pause):
                raise CalledOff
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return [json.loads(message) for message in messages]

    def _signed(self, names: Sequence[str]) -> list[str] | None:
        """The texts of all keys once each was written by a rank of this job."""
        found = self._store.multi_get(names) if self._store.check(names) else [None]
        return [text for text in found if text is not None] if None not in found else None

    def forget(self, keys: Sequence[str]) -> None:
        """Remove keys that are no longer awaited."""
        for key in keys:
            self._store.delete_key(f"{self._prefix}/{key}")

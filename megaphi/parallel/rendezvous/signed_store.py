"""The job's store with signed messages: what a process without the job's secret writes there is never believed.

Whoever reaches the port of torch's store may write any key. So every message of ours carries an HMAC-SHA256 of its key
and its text under MEGAPHI_JOB_SECRET, a text that all ranks of a job have in their environment: our launchers make one
for each job. Without a secret the signature is only a check sum. Counters, and the keys of torch's own communicators
(addresses of gloo and NCCL), are not signed: keep the port away from strangers all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from typing import Any

SECRET = "MEGAPHI_JOB_SECRET"


def job_secret() -> str:
    """The secret of this process's job; empty if it was given none."""
    return os.environ.get(SECRET, "")


class SignedStore:
    """A view of a store (torch's, or one like it) whose texts are signed.

    Args:
        secret: the job's; None reads it from the environment.
    """

    def __init__(self, store: Any, *, secret: str | None = None) -> None:
        self.plain = store
        """The store itself, for torch."""
        self._secret = (job_secret() if secret is None else secret).encode()

    def set(self, key: str, text: str) -> None:
        self.plain.set(key, f"{self._signature(key, text)}{text}")

    def get(self, key: str) -> str | None:
        """The text of a key, which must be there; None if nobody of this job wrote it."""
        return self._checked(key, self.plain.get(key))

    def multi_get(self, keys: Sequence[str]) -> list[str | None]:
        """`get` of several keys in one request."""
        return [self._checked(key, found) for key, found in zip(keys, self.plain.multi_get(keys), strict=True)]

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all of these keys are there."""
        return self.plain.check(keys)

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which is not signed; its value."""
        return self.plain.add(key, amount)

    def delete_key(self, key: str) -> None:
        self.plain.delete_key(key)

    def _signature(self, key: str, text: str) -> str:
        return hmac.new(self._secret, f"{len(key)} {key}{text}".encode(), hashlib.sha256).hexdigest()

    def _checked(self, key: str, found: bytes) -> str | None:
        try:
            content = found.decode()
        except UnicodeDecodeError:
            return None
        signature, text = content[:64], content[64:]
        return text if hmac.compare_digest(signature.encode(), self._signature(key, text).encode()) else None

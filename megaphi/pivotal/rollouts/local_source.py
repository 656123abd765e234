"""Our own engine as a source of rollouts: requests go to the replicas of the model as these have room for them.

Only rank 0 runs it, over the workers of a `LocalSampler`. Rollouts that share a prefix go to the replica whose cache
has it (`generation/dispatch.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.generation.workers import GenerationService


class LocalSource:
    """Implements `RolloutSource`, over a service that somebody else starts and closes."""

    reason_without_probabilities = ""

    def __init__(self, service: GenerationService, *, facts: Mapping[str, Any]) -> None:
        self.facts, self.context = facts, service.context
        self._service = service
        self._outputs: SimpleQueue[Sequence[StepOutput | Exception]] = SimpleQueue()
        self._waiting: deque[Request] = deque()
        self._open: dict[str, tuple[str, Completion]] = {}

    def submit(self, requests: Sequence[Request]) -> None:
        self._waiting += requests
        self._fill()

    def ended(self) -> list[tuple[str, Completion]]:
        found: list[tuple[str, Completion]] = []
        while self._open and not found:
            for item in self._outputs.get():
                if isinstance(item, Exception):
                    raise item
                name, completion = self._open[item.name]
                completion.add(item)
                if item.finish is not None:
                    del self._open[item.name]
                    found.append((name, completion))
        self._fill()
        return found

    def deliver(self, items: Sequence[StepOutput | Exception]) -> None:
        """Implements `OutputReader`: called by the threads that step the engines."""
        self._outputs.put(items)

    def _fill(self) -> None:
        room = self._service.max_waiting - len(self._open)
        new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        for request, named in zip(new, self._service.enqueue(new, self), strict=True):
            self._open[named.name] = request.name, Completion()

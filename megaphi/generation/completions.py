"""Many requests through the workers from one thread: each completion as it ends.

A bounded number of requests is open at a time; whenever one ends the next is queued, at the replica that has least to
do or holds its prefix (`dispatch.py`). So replicas finish together, and ten thousand requests need no more memory than
those that are open. An iteration that is left early cancels what it has open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Generator as Completions
from itertools import islice
from queue import SimpleQueue

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.generation.workers import GenerationService

AnswerEnds = Callable[[str, StepOutput], bool]
"""Told each output with its request's name; True if the answer ended with it, at a stop text."""


class _ArrivalQueue:
    """Implements `OutputReader` for a thread that waits."""

    def __init__(self) -> None:
        self._items: SimpleQueue[Sequence[StepOutput | Exception]] = SimpleQueue()

    def deliver(self, items: Sequence[StepOutput | Exception]) -> None:
        self._items.put(items)

    def next_outputs(self) -> list[StepOutput]:
        """The outputs of one step. Raises InputError if the engine refused a request, RunFailed if it failed."""
        outputs = []
        for item in self._items.get():
            if isinstance(item, Exception):
                raise item
            outputs.append(item)
        return outputs


def complete_requests(
    service: GenerationService,
    requests: Iterable[Request],
    *,
    at_once: int,
    ends: AnswerEnds = lambda name, output: output.finish is not None,
) -> Completions[tuple[str, Completion], None, None]:
    """(name, completion) of every request, in the order in which they end; names need not differ.

    Args:
        at_once: requests open at a time, over all replicas.
        ends: where an answer may end before its generator says so.

    Raises:
        InputError: a request can never run.
        RunFailed: the engine failed, or is being closed.
    """
    queue, waiting = _ArrivalQueue(), iter(requests)
    open_requests: dict[str, tuple[str, Completion]] = {}
    try:
        while True:
            new = list(islice(waiting, at_once - len(open_requests)))
            for request, named in zip(new, service.enqueue(new, queue), strict=True):
                open_requests[named.name] = (request.name, Completion())
            if not open_requests:
                return
            for output in queue.next_outputs():
                if output.name not in open_requests:  # ended at a stop text, earlier in this step or before it
                    continue
                name, completion = open_requests[output.name]
                completion.add(output)
                is_stopped = ends(name, output) and output.finish is None
                if is_stopped:
                    completion.finish = "stop"
                    service.cancel([output.name])
                if is_stopped or output.finish is not None:
                    del open_requests[output.name]
                    yield name, completion
    finally:
        service.cancel(list(open_requests))

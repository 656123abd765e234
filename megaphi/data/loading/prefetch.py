"""Prefetch in a background thread, so that the next batch is ready when the current step ends.

Reading a batch is memory copies and page faults, both of which release the GIL: a thread is enough, and unlike worker
processes it has nothing to start, to copy or to leave behind. An error in the thread is raised where its item would
have come out.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], *, depth: int = 2) -> Generator[Item, None, None]:
    """The same items in the same order, made by a thread that runs at most `depth` items ahead.

    The thread starts with the first `next`, and has ended when the generator is exhausted or closed.
    """
    ahead = _Ahead(items, depth=depth)
    thread = threading.Thread(target=ahead.fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ahead.take(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        ahead.stop()
        thread.join()


@dataclass(frozen=True, slots=True)
class _End:
    """End marker after the last item, with the error that ended the thread, if one did."""

    error: BaseException | None = None


class _Ahead(Generic[Item]):
    """State shared by the two threads: items made, and permissions to make more."""

    def __init__(self, items: Iterable[Item], *, depth: int) -> None:
        self._items = items
        self._made: SimpleQueue[Item | _End] = SimpleQueue()
        self._permissions: SimpleQueue[None] = SimpleQueue()  # a semaphore is written in Python, and slower
        for _ in range(depth):
            self._permissions.put(None)
        self._stopped = False

    def fill(self) -> None:
        try:
            source = iter(self._items)
            while True:
                self._permissions.get()
                if self._stopped:
                    return
                self._made.put(next(source))
        except StopIteration:
            self._made.put(_End())
        except BaseException as error:
            self._made.put(_End(error))

    def take(self) -> Item | _End:
        item = self._made.get()
        self._permissions.put(None)
        return item

    def stop(self) -> None:
        self._stopped = True
        self._permissions.put(None)

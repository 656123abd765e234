"""The prefetching thread: same items, same errors, bounded look-ahead, and gone afterwards."""

from __future__ import annotations

import threading
import time

import pytest

from megaphi.data.loading.prefetch import prefetch


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_same_items_in_the_same_order():
    assert list(prefetch(range(1_000), depth=3)) == list(range(1_000))
    assert list(prefetch([])) == []
    assert prefetch_threads() == []


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_never_further_ahead_than_its_depth(depth):
    made = []
    items = prefetch((made.append(number) or number for number in range(100)), depth=depth)
    for number in range(10):
        assert next(items) == number
        wait_until(lambda: len(made) == number + 1 + depth)  # noqa: B023 (used at once)
        time.sleep(0.005)
        assert len(made) == number + 1 + depth
    items.close()


def test_an_error_comes_out_where_its_item_would():
    def failing():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    items = prefetch(failing(), depth=5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(items)
    assert prefetch_threads() == []


def test_closing_ends_the_thread():
    items = prefetch(iter(int, 1), depth=2)
    next(items)
    assert len(prefetch_threads()) == 1
    items.close()
    assert prefetch_threads() == []

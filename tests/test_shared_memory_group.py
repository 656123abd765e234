"""Collectives through shared memory give what gloo gives, and nothing before it was waited for."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import ReduceOp, Work

from tests.gloo_world import run_in_new_world, run_in_world
from tests.shared_memory_group import MESSAGE, SLOT

RANKS = 3
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8)
SIZES = (1, 7, SLOT // 4 + 5)
"""Elements of each rank; the last takes several turns in every type but bytes."""


def every_collective() -> list[tuple[str, str]]:
    """Type and digest of what this rank has after each collective, of each type and size."""
    _join()
    two = distributed.new_group([0, 2])
    found = []
    for dtype in DTYPES:
        for size in SIZES:
            results = _reductions(dtype, size) + _gathers(dtype, size) + _messages(dtype, size)
            if distributed.get_rank() in (0, 2):
                results.append(_mine(dtype, size))
                distributed.all_reduce(results[-1], group=two)
            found += [(str(dtype), sha256(result.view(torch.uint8).numpy()).hexdigest()) for result in results]
    distributed.barrier()
    objects: list[Any] = [None] * RANKS
    distributed.all_gather_object(objects, {"rank": distributed.get_rank(), "text": "x" * distributed.get_rank()})
    assert [one["text"] for one in objects] == ["", "x", "xx"]
    return found


def _join() -> None:
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import start_world

    start_world(ParallelLayout(tensor=RANKS), seed=1)


def _mine(dtype: torch.dtype, size: int) -> Tensor:
    """Whole numbers, whose sums are exact in every type and order."""
    return (torch.arange(size) * (distributed.get_rank() + 1) % 31).to(dtype)


def _reductions(dtype: torch.dtype, size: int) -> list[Tensor]:
    results = []
    for operation in (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.MIN):
        whole = _mine(dtype, size)
        distributed.all_reduce(whole, operation)
        results.append(whole)
    rows = _mine(dtype, RANKS * size)
    part = rows.new_empty(size)
    distributed.reduce_scatter_tensor(part, rows)
    on_one = _mine(dtype, size)
    distributed.reduce(on_one, 1)
    return [*results, part, *([on_one] if distributed.get_rank() == 1 else [])]


def _gathers(dtype: torch.dtype, size: int) -> list[Tensor]:
    mine = _mine(dtype, size)
    whole, parts = mine.new_empty(RANKS * size), [torch.empty_like(mine) for _ in range(RANKS)]
    distributed.all_gather_into_tensor(whole, mine)
    distributed.all_gather(parts, mine)
    sent = _mine(dtype, size)
    distributed.broadcast(sent, 2)
    here = [torch.empty_like(mine) for _ in range(RANKS)] if distributed.get_rank() == 1 else None
    distributed.gather(mine, here, 1)
    part = torch.empty_like(mine)
    distributed.scatter(part, here, 1)
    return [whole, *parts, sent, part, *(here or [])]


def _messages(dtype: torch.dtype, size: int) -> list[Tensor]:
    """In a circle: two messages sent before either is received."""
    rank = distributed.get_rank()
    values = [_mine(dtype, size), _mine(dtype, size + 1)]
    found = [torch.empty_like(value) for value in values]
    work = [distributed.isend(value, (rank + 1) % RANKS) for value in values]
    work += [distributed.irecv(value, (rank - 1) % RANKS) for value in found]
    for one in work:
        one.wait()
    return found


def test_every_collective_gives_what_gloo_gives() -> None:
    through_memory = run_in_world(every_collective, processes=RANKS)
    through_gloo = run_in_new_world(every_collective, processes=RANKS)
    for ours, theirs in zip(through_memory, through_gloo, strict=True):
        assert len(ours) > 100
        assert ours == theirs


def before_and_after() -> dict[str, list[float]]:
    """Values of a tensor before and after it was waited for."""
    _join()
    rank = float(distributed.get_rank())
    found = {}

    def look(name: str, tensor: Tensor, start: Callable[[], Work]) -> None:
        work = start()
        distributed.barrier()
        before = tensor.tolist()
        work.wait()
        found[name] = [before[0], tensor.tolist()[0], work.is_completed()]

    one, many = torch.tensor([rank + 1]), torch.tensor([-1.0] * RANKS)
    look("all_reduce", one, lambda: distributed.all_reduce(one, async_op=True))
    look("all_gather", many, lambda: distributed.all_gather_into_tensor(many, torch.tensor([5.0]), async_op=True))
    part = torch.tensor([-1.0])
    look("reduce_scatter", part, lambda: distributed.reduce_scatter_tensor(part, torch.ones(RANKS), async_op=True))
    return found


def test_nothing_is_there_before_it_was_waited_for() -> None:
    for rank, found in enumerate(run_in_world(before_and_after, processes=RANKS)):
        assert found["all_reduce"] == [rank + 1, 6, True]
        assert found["all_gather"] == [-1, 5, True]
        assert found["reduce_scatter"] == [-1, 3, True]


def more_than_the_channel_holds() -> list[int]:
    """A message of several parts, and more messages than may be under way at once."""
    _join()
    rank = distributed.get_rank()
    large = torch.arange(3 * MESSAGE // 4)
    if rank == 0:
        distributed.send(large, 1)
        for number in range(100):
            distributed.send(torch.tensor([number]), 1)
    found = torch.empty_like(large)
    numbers = [torch.tensor([-1]) for _ in range(100)]
    if rank == 1:
        distributed.recv(found, 0)
        assert torch.equal(found, large)
        for number in numbers:
            distributed.recv(number, 0)
    return [int(number) for number in numbers]


def test_messages_arrive_in_order_however_many() -> None:
    assert run_in_world(more_than_the_channel_holds, processes=RANKS)[1] == list(range(100))


def multiply() -> None:
    _join()
    distributed.all_reduce(torch.ones(1), ReduceOp.PRODUCT)


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(RuntimeError, match="a reduction other than sum, mean, largest and smallest"):
        run_in_world(multiply, processes=RANKS)

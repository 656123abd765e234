"""Worlds that live on: the same ranks take the next case, find nothing of the last one, and a failure is its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from tests.gloo_world import run_in_new_world, run_in_world, start_ranks


def sum_of_ranks(leave: str = "") -> tuple[int, float, float, str | None, str]:
    """(process, sum of all ranks' numbers, a random number, what an earlier case left, folder)."""
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.world import start_world

    start_world(ParallelLayout(tensor=2), seed=1)
    number = torch.tensor(float(os.environ["RANK"]) + 1)
    torch.distributed.all_reduce(number)
    found = (os.getpid(), number.item(), torch.rand(()).item(), os.environ.get("LEFT"), str(Path.cwd()))
    if leave:
        os.environ["LEFT"] = leave
        os.chdir("/")
    return found


def fail_on(rank: int) -> None:
    sum_of_ranks()
    if int(os.environ["RANK"]) == rank:
        raise ValueError(f"on purpose, on rank {rank}")
    torch.distributed.barrier()


def test_the_same_ranks_take_the_next_case_and_find_nothing_of_the_last() -> None:
    first = run_in_world(sum_of_ranks, "something", processes=2)
    second = run_in_world(sum_of_ranks, processes=2)
    assert first == second
    assert [rank[1] for rank in second] == [3.0, 3.0]
    assert [rank[3] for rank in second] == [None, None]


def test_a_case_that_fails_is_named_by_its_own_rank_and_the_next_one_passes() -> None:
    before = run_in_world(sum_of_ranks, processes=2)
    for rank in (0, 1):
        with pytest.raises(RuntimeError, match=rf"(?s)^rank {rank} failed:.*on purpose, on rank {rank}"):
            run_in_world(fail_on, rank, processes=2)
        after = run_in_world(sum_of_ranks, processes=2)
        assert {rank[0] for rank in before}.isdisjoint(rank[0] for rank in after)
        assert [rank[1] for rank in after] == [3.0, 3.0]


def test_a_new_world_is_of_its_own() -> None:
    living = run_in_world(sum_of_ranks, processes=2)
    new = run_in_new_world(sum_of_ranks, processes=2)
    assert {rank[0] for rank in living}.isdisjoint(rank[0] for rank in new)
    assert run_in_world(sum_of_ranks, processes=2) == living


def test_a_rank_whose_result_nobody_reads_any_more_ends_without_an_error() -> None:
    (rank,), (result,) = start_ranks(time.sleep, 0.3, processes=1)
    result.close()
    rank.join(30)
    assert rank.exitcode == 0

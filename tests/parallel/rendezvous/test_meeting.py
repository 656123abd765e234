"""Ranks that meet in a store: who differs, who is missing and who is one too many is said to all, by name.

Threads and torch's HashStore stand for processes and the network: a meeting needs nothing else.
"""

from __future__ import annotations

import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from megaphi.errors import InputError, ReportedElsewhere
from megaphi.log import logger
from megaphi.parallel.rendezvous import meeting
from megaphi.parallel.rendezvous.differences import differences, named
from megaphi.parallel.rendezvous.meeting import Arrival, meet
from megaphi.parallel.rendezvous.signed_store import SignedStore


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "STRAGGLERS_SECONDS", 0.3)
    monkeypatch.setattr(meeting, "FAREWELL_SECONDS", 1.0)


def arrival(rank: int, **facts: str) -> Arrival:
    problem = facts.pop("problem", "")
    return Arrival(rank=rank, facts=facts, host=f"node{rank // 2}", pid=100 + rank, problem=problem)


def outcomes(*arrivals: Arrival, size: int, patience_seconds: float = 5.0) -> list[Any]:
    """Outcome of each process that comes, rank 0 the last of them: the ranks present, or its error."""
    store = SignedStore(HashStore(), secret="ours")

    def come(one: Arrival) -> Any:
        while one.rank == 0 and store.add("arrivals", 0) < len(arrivals) - 1:
            time.sleep(0.001)
        return outcome(store, one, size=size, patience_seconds=patience_seconds)

    with ThreadPoolExecutor(len(arrivals)) as threads:
        return list(threads.map(come, arrivals))


def outcome(store: SignedStore, one: Arrival, *, size: int, patience_seconds: float = 5.0) -> Any:
    try:
        present = meet(store, one, world_size=size, patience_seconds=patience_seconds)
    except InputError as error:
        return error
    return sorted(present)


def test_ranks_that_agree_go_on() -> None:
    assert outcomes(*(arrival(rank, seed="1") for rank in range(4)), size=4) == [[0, 1, 2, 3]] * 4


def test_everybody_who_waits_says_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    monkeypatch.setattr(meeting, "SAY_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(logger, "handlers", [handler])
    found = outcomes(*(arrival(rank) for rank in (0, 1, 3)), size=6, patience_seconds=1.0)
    missing = r"rank 0 waits for ranks 2, 4-5 of 6 \(here: ranks 0-1, 3 \(node0, node1\)\)"
    assert all(re.search(missing, str(error)) for error in found), found
    for speaker in ("rank 0 waits", "rank 1 \\(.*waits", "rank 3 \\(.*waits"):
        assert any(re.match(speaker, line) and re.search(missing, line) for line in lines), (speaker, lines)


def test_every_difference_is_said_to_everybody_by_field_rank_and_host() -> None:
    ranks = [arrival(rank, seed="1", rate="0.1", torch="2.13") for rank in range(6)]
    ranks[3] = arrival(3, seed="2", rate="0.1", torch="2.13")
    ranks[4], ranks[5] = (arrival(rank, seed="1", rate="0.1", torch="2.14", extra="x") for rank in (4, 5))
    found = outcomes(*ranks, size=6)
    text = str(found[0])
    assert "seed: 1 on ranks 0-2, 4-5 (node0, node1, node2), 2 on rank 3 (node1)" in text
    assert "torch: 2.13 on ranks 0-3 (node0, node1), 2.14 on ranks 4-5 (node2)" in text
    assert "extra: nothing on ranks 0-3 (node0, node1), x on ranks 4-5 (node2)" in text
    assert "rate" not in text
    assert [str(error) for error in found] == [text] * 6
    assert [type(error) for error in found] == [InputError, ReportedElsewhere] * 3  # one voice on every host


def test_another_world_size_does_not_make_anybody_wait() -> None:
    """Rank 0 expects four, rank 1 knows of two; and the other way round."""
    few, many = ({"size": "2"}, {"size": "4"})
    for first, second in ((many, few), (few, many)):
        found = outcomes(arrival(0, **first), arrival(1, **second), size=int(first["size"]))
        assert all(isinstance(error, InputError) for error in found)
        assert "on rank 1 (node0)" in str(found[0])


@pytest.mark.parametrize(
    ("stray", "said"),
    [
        (3, "rank 3 (process 999 on node9) is not of a world of 2"),
        (1, "rank 1 (process 101 on node0) and rank 1 (process 999 on node9) are both rank 1"),
    ],
)
def test_a_process_too_many_is_named(stray: int, said: str) -> None:
    """Before rank 0 closes the door the job ends; after it, only the one too many."""
    extra = Arrival(rank=stray, facts={}, host="node9", pid=999)
    found = outcomes(arrival(0), arrival(1), extra, size=2)
    assert all(isinstance(error, InputError) for error in found)
    both = str(found[0]).replace(
        "rank 1 (process 999 on node9) and rank 1 (process 101 on node0)",
        "rank 1 (process 101 on node0) and rank 1 (process 999 on node9)",
    )
    assert said in both
    store = SignedStore(HashStore(), secret="ours")
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda rank: outcome(store, arrival(rank), size=2), range(2))) == [[0, 1]] * 2
    assert f"rank {stray} (process 999 on node9) is one too many" in str(outcome(store, extra, size=2))


def test_a_rank_that_cannot_take_part_says_why_to_all() -> None:
    found = outcomes(arrival(0, seed="1"), arrival(1, problem="layout.tensor=3: no"), size=2)
    assert [str(error) for error in found] == ["layout.tensor=3: no (on rank 1 (node0))"] * 2
    found = outcomes(*(arrival(rank, problem="no such recipe") for rank in range(3)), size=3)
    assert [str(error) for error in found] == ["no such recipe"] * 3


def test_who_is_missing_is_said_while_waiting_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SAY_EVERY_SECONDS", 0.1)
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    logger.addFilter(keep)
    try:
        found = outcomes(arrival(0), arrival(2), size=5, patience_seconds=0.6)
    finally:
        logger.removeFilter(keep)
    assert any("rank 0 waits for ranks 1, 3-4 of 5" in line for line in lines)
    assert all(re.search(r"rank 0 waits for ranks 1, 3-4 of 5 .* and gives up", str(error)) for error in found)


def on_gpu(rank: int, gpu: str, *, host: str, kernel: str = "", **facts: str) -> Arrival:
    return Arrival(rank=rank, facts=facts, host=host, kernel=kernel or host, pid=100 + rank, gpu=gpu)


def test_ranks_on_one_gpu_are_named_before_anything_collective() -> None:
    """However it came: each sees one GPU, and it is the same; or all take number 0; or two containers of one host."""
    found = outcomes(*(on_gpu(rank, "GPU-a", host="node0") for rank in range(3)), on_gpu(3, "b", host="node0"), size=4)
    assert "the same GPU:\n  GPU GPU-a: ranks 0-2 (node0)\nGive each rank" in str(found[0])
    assert "differ" not in str(found[0])
    assert [type(error) for error in found] == [InputError, *[ReportedElsewhere] * 3]
    in_containers = (on_gpu(rank, "GPU-a", host=f"pod{rank}", kernel="one boot") for rank in range(2))
    assert "  GPU GPU-a: ranks 0-1 (pod0, pod1)" in str(outcomes(*in_containers, size=2)[1])
    two_things = (on_gpu(rank, "GPU-a", host="node0", seed=str(rank)) for rank in range(2))
    assert re.search(r"differ:\n  seed: .*\nStart all .*\n.*same GPU:\n", str(outcomes(*two_things, size=2)[0]))


def test_gpus_of_one_name_on_two_machines_and_unknown_ones_are_no_quarrel() -> None:
    ranks = (
        on_gpu(0, "GPU-a", host="x"),
        on_gpu(1, "GPU-a", host="y"),
        on_gpu(2, "", host="x"),
        on_gpu(3, "", host="x"),
    )
    assert outcomes(*ranks, size=4) == [[0, 1, 2, 3]] * 4


def test_long_values_and_many_fields_are_cut() -> None:
    one, other = ({f"field {n}": value * 500 for n in range(40)} for value in "ab")
    text = differences({0: one, 1: other}, {0: "x", 1: "y"})
    assert text is not None
    assert "and 28 more" in text
    assert max(map(len, text.splitlines())) < 500
    assert differences({0: one, 1: dict(one)}, {}) is None
    assert named([7], {}) == "rank 7"

"""A rank that dies, stops or fails is named by all others, which end though they hang; a healthy job is left alone.

The worlds of all cases run at the same time, since they mostly wait.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from megaphi.cli import main
from megaphi.engine.reporting.events import read_events
from megaphi.parallel.launcher import LOST_RANK_CODE
from megaphi.parallel.liveness.beats import FIRST, Beat, Person, Roll, whereabouts
from tests.gloo_world import run_in_new_world, start_ranks
from tests.parallel.liveness.heartbeat_runs import STANDSTILL, hang, meet_and_go

RANKS, HEARTBEAT_SECONDS, DEADLINE_SECONDS = 3, 4.0, 90.0
CASES = {"stopped": 2, "first stopped": 0, "killed": 1, "first killed": 0, "failed": 1, "hung": 1, "slow storage": 1}
"""Faults, and the rank they happen to."""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[list[int | None], list[str]]]]:
    """Exit codes and words of all ranks of every case; a stopped rank goes on once the others have ended."""
    worlds = {}
    for case, victim in CASES.items():
        folder = tmp_path_factory.mktemp(case.replace(" ", "_"))
        arguments = (str(folder), HEARTBEAT_SECONDS, victim, case.removeprefix("first "))
        worlds[case] = (folder, start_ranks(hang, *arguments, processes=RANKS)[0])
    found, deadline = {}, time.monotonic() + DEADLINE_SECONDS
    try:
        for case, (folder, ranks) in worlds.items():
            others = [rank for number, rank in enumerate(ranks) if number != CASES[case]]
            for rank in others:
                rank.join(max(0.1, deadline - time.monotonic()))
            if "stopped" in case:
                os.kill(int((folder / "pid").read_text()), signal.SIGCONT)
            ranks[CASES[case]].join(max(0.1, deadline - time.monotonic()))
            said = [(folder / f"rank_{number}").read_text() for number in range(RANKS)]
            found[case] = ([rank.exitcode for rank in ranks], said)
        found["folders"] = {case: folder for case, (folder, _) in worlds.items()}  # pyright: ignore[reportArgumentType]
        yield found
    finally:
        for _, ranks in worlds.values():
            for rank in ranks:
                rank.kill()


@pytest.mark.parametrize("case", [case for case in CASES if case not in STANDSTILL])
def test_survivors_name_the_lost_rank_and_end_though_they_hang(case: str, ended: dict) -> None:
    codes, said = ended[case]
    for rank in range(RANKS):
        if rank == CASES[case]:
            assert codes[rank] == (-signal.SIGKILL if "killed" in case else 1 if case == "failed" else LOST_RANK_CODE)
            continue
        assert codes[rank] == LOST_RANK_CODE
        line = next(line for line in said[rank].splitlines() if line.startswith("megaphi: "))
        assert re.search(rf"^megaphi: rank {rank} on \S+ ends in step 7, forward_backward: ", line)
        assert re.search(rf"rank {CASES[case]} on \S+ \(process \d+\), last heard in step 7, forward_backward", line)
        assert ("it failed: ZeroDivisionError: its own fault" in line) == (case == "failed")
        assert said[rank].count("megaphi: ") == 1


def test_a_hung_main_thread_is_named_with_its_frame_and_the_collective_it_has_not_entered(ended: dict) -> None:
    codes, said = ended["hung"]
    assert codes == [LOST_RANK_CODE] * RANKS
    for rank in range(RANKS):
        assert re.search(rf"megaphi: (rank {rank} on \S+ ends in step 7, forward_backward: .*)", said[rank])
        assert re.search(
            r"no rank has moved for [45] s: rank 1 on \S+ \(process \d+\), last heard in step 7, forward_backward; "
            r"rank 1 at read_for_ever \(liveness/heartbeat_runs.py:\d+\); "
            r"has not entered all_reduce \d of the group 0 \(all ranks\), in which ranks 0, 2 wait",
            said[rank],
        )


def test_a_rank_that_waits_for_its_storage_is_named_before_the_job_ends(ended: dict) -> None:
    codes, _ = ended["slow storage"]
    folder = ended["folders"]["slow storage"]
    first, *_ = read_events(folder)
    assert (first["kind"], first["ranks"], first["ended"]) == ("lost_rank", [1], False)
    assert re.search(r"no rank has moved for [45] s: .*data; rank 1 at read_for_ever .*lasts for 12 s$", first["text"])
    assert "in read_for_ever" in (folder / "log_1").read_text()
    assert "in hang" in (folder / "log_2").read_text()
    assert codes == [LOST_RANK_CODE] * RANKS


def test_the_dumps_of_a_hung_job_tell_where_its_ranks_part(ended: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """gloo's own flight recorder, written by the ranks as they ended."""
    folder = ended["folders"]["hung"]
    assert main(["hang-report", str(folder)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert re.match(r"group 0 \(default_pg\), number \d, all_reduce of 5 Float: ranks 0, 2 wait", said[1])
    assert re.match(r"  ranks 0, 2: all_reduce of 5 Float, scheduled, at hang \(\S+heartbeat_runs.py:\d+\)", said[2])
    assert re.match(r"  rank 1 has not entered it: its last here is barrier \d, at hang \(\S+heartbeat", said[3])
    assert "in read_for_ever" in (folder / "log_1").read_text()
    (event,) = read_events(folder)
    assert (event["kind"], event["step"], event["ranks"], event["ended"]) == ("lost_rank", 7, [1], True)
    assert [one["ranks"] for one in read_events(ended["folders"]["first killed"])] == [[0]]  # told by rank 1


def test_a_stopped_rank_that_goes_on_ends_too_and_says_why(ended: dict) -> None:
    assert (
        "the others considered this rank lost" in ended["stopped"][1][2] or "rank 0 is lost" in ended["stopped"][1][2]
    )
    assert re.search(r"not heard for \d+ s: ranks 1-2 on", ended["first stopped"][1][0])


def test_a_healthy_world_hears_no_alarm_and_leaves_at_once() -> None:
    began = time.monotonic()
    assert run_in_new_world(meet_and_go, "", processes=3) == ["done"] * 3
    assert time.monotonic() - began < 60


def beats(*numbers: int, **fields: object) -> list[Beat]:
    return [FIRST._replace(number=number, **fields) for number in numbers]  # pyright: ignore[reportArgumentType]


def test_who_is_silent() -> None:
    roll = Roll(3, interval_seconds=2.0, now=0.0)
    for tick in range(1, 22):
        roll.note(beats(tick, min(tick, 10), tick), now=2.0 * tick)
    assert roll.silent(longer_than=20.0) == [1]
    assert roll.silent(longer_than=22.0) == []
    roll.note(beats(22, 11, 22), now=44.0)
    assert roll.silent(longer_than=0.0) == []


@pytest.mark.parametrize("pause_seconds", [60.0, 30_000.0])
def test_nobody_was_silent_while_the_watcher_itself_stood_still(pause_seconds: float) -> None:
    """A laptop was closed, a container paused, a debugger attached: all clocks jump, no beat has come meanwhile."""
    roll = Roll(2, interval_seconds=2.0, now=0.0)
    roll.note(beats(1, 1), now=2.0)
    for jump in range(1, 4):  # again and again, with one good look in between
        roll.note(beats(jump, jump), now=2.0 + jump * pause_seconds)
        assert roll.silent(longer_than=40.0) == []
        roll.note(beats(jump + 1, jump + 1), now=4.0 + jump * pause_seconds)


def test_who_has_left_is_not_silent() -> None:
    roll = Roll(1, interval_seconds=2.0, now=0.0)
    for tick in range(1, 60):
        roll.note(beats(1, state="left"), now=2.0 * tick)
    assert roll.silent(longer_than=0.0) == []


def test_a_job_that_stands_still_is_noticed_though_all_are_alive() -> None:
    roll = Roll(2, interval_seconds=2.0, now=0.0)
    for tick in range(1, 51):
        roll.note(beats(tick, tick, step=min(tick, 10), phase="data"), now=2.0 * tick)
    assert roll.standing_seconds == 80.0
    assert roll.silent(longer_than=4.0) == []


def test_ranks_are_told_compactly() -> None:
    people = [Person(f"node{rank // 8}", 100 + rank) for rank in range(24)]
    places = [Beat(9, 4, "data" if rank == 17 else "gradients", "here") for rank in range(24)]
    assert whereabouts(range(8, 24), people, places) == (
        "ranks 8-15 on node1, last heard in step 4, gradients; ranks 16, 18-23 on node2, last heard in step 4, "
        "gradients; rank 17 on node2 (process 117), last heard in step 4, data"
    )

"""Turns before one generator: who has a slot, who is displaced, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.generation.decoding.interface import Request
from megaphi.generation.fair_queue import (
    TURN_TOKENS,
    CallOrigin,
    FairQueue,
    QueuedRequest,
    call_that_gives_way,
)
from megaphi.generation.workers import MOST_UNREAD
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.test_workers import expected, reaches, request, running, tokens_of


def filled(*origins: tuple[str, int], slots: int) -> FairQueue:
    """A queue whose requests, called 0, 1, ..., came from these clients with these calls; the first have slots."""
    queue = FairQueue()
    for name, (client, call) in enumerate(origins):
        queue.put(Request(name=str(name), prompt=(1,)), CallOrigin(client, call))
    queue.next_commands(slots)
    return queue


def names_after(queue: FairQueue, *, slots: int, tokens: int = 0, starved: tuple[str, ...] = ()) -> list[str]:
    """Commands, after so many tokens of every request that has a slot."""
    for name, one in queue.open.items():
        for _ in range(0 if one in queue.waiting else tokens):
            queue.count(name)
    return [f"{method} {request.name}" for method, request in queue.next_commands(slots, starved)]


def test_a_newcomer_displaces_a_client_with_all_slots_after_a_turn():
    queue = filled(("a", 0), ("a", 0), slots=2)
    assert names_after(queue, slots=2, tokens=TURN_TOKENS - 1) == []
    queue.put(Request(name="new", prompt=(1,)), CallOrigin("b", 1))
    assert names_after(queue, slots=2) == []
    assert names_after(queue, slots=2, tokens=1) == ["suspend 0", "add new"]
    assert names_after(queue, slots=2, tokens=TURN_TOKENS) == []  # each has one
    queue.remove("new")
    assert names_after(queue, slots=2) == ["resume 0"]


def test_a_turn_is_longer_for_a_long_sequence_and_ends_with_a_block():
    queue = FairQueue()
    queue.put(Request(name="0", prompt=(1,) * 630), CallOrigin("a", 0))
    queue.next_commands(1)
    queue.put(Request(name="1", prompt=(1,)), CallOrigin("b", 1))
    after = next(tokens for tokens in range(1, 99) if names_after(queue, slots=1, tokens=1))
    assert after == 43  # 32 and one for each 64 of 673, of which 42 blocks are computed


def test_more_clients_than_slots_take_turns():
    queue = filled(("a", 0), ("b", 1), ("c", 2), slots=1)
    found = [names_after(queue, slots=1, tokens=TURN_TOKENS) for _ in range(3)]
    assert found == [["suspend 0", "add 1"], ["suspend 1", "add 2"], ["suspend 2", "resume 0"]]


def test_the_calls_of_one_client_begin_in_turn_and_displace_each_other_once():
    queue = filled(("a", 0), ("a", 1), ("a", 2), slots=1)
    assert names_after(queue, slots=1, tokens=TURN_TOKENS - 1) == []
    assert names_after(queue, slots=1, tokens=1) == ["suspend 0", "add 1"]
    assert names_after(queue, slots=1, tokens=TURN_TOKENS) == ["suspend 1", "add 2"]
    assert names_after(queue, slots=1, tokens=9 * TURN_TOKENS) == []


def test_a_programs_own_requests_do_not_displace_each_other():
    queue = filled(("", 0), ("", 1), slots=1)
    assert names_after(queue, slots=1, tokens=9 * TURN_TOKENS) == []


def test_a_newcomer_has_room_made_for_it_in_the_cache():
    queue = filled(("a", 0), ("b", 1), slots=4)
    assert names_after(queue, slots=4, tokens=TURN_TOKENS) == []
    queue.put(Request(name="new", prompt=(1,)), CallOrigin("c", 2))
    assert names_after(queue, slots=4) == ["add new"]
    assert names_after(queue, slots=4, starved=("new",))[0] == "suspend 0"


def test_a_held_request_has_no_slot_until_it_is_released():
    queue = filled(("a", 0), ("a", 1), slots=1)
    queue.hold("0")
    assert queue.has_commands(1)
    assert names_after(queue, slots=1) == ["suspend 0", "add 1"]
    queue.remove("1")
    assert not queue.has_commands(1)
    queue.release("0")
    queue.release("0")
    assert names_after(queue, slots=1) == ["resume 0"]


@given(
    asked=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 300), st.booleans()), min_size=1, max_size=25),
    slots=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_everybody_ends_and_the_slots_are_full(asked, slots):
    queue, left = FairQueue(), {}
    for number, (client, tokens, is_held) in enumerate(asked):
        queue.put(Request(name=str(number), prompt=(1,)), CallOrigin(client, number))
        left[str(number)] = tokens
        if is_held:
            queue.hold(str(number))
    has_slot: set[str] = set()
    for step in range(10_000):
        if step == 50:
            for number in range(len(asked)):
                if str(number) in queue.open:
                    queue.release(str(number))
        for method, one in queue.next_commands(slots):
            (has_slot.discard if method == "suspend" else has_slot.add)(one.name)
        ready = sum(not one.is_held for one in queue.open.values())
        assert len(has_slot) == queue.running == min(slots, ready)
        for name in list(has_slot):
            queue.count(name)
            left[name] -= 1
            if not left[name]:
                has_slot.discard(name)
                assert queue.remove(name)
        if not queue.open:
            break
    assert not queue.open
    assert not queue.has_commands(slots)


def test_the_call_that_gives_way():
    def waiting(*calls: tuple[str, int, int, bool]) -> list[QueuedRequest]:
        return [
            QueuedRequest(Request(name=f"{call}", prompt=(1,)), CallOrigin(client, call), is_held=is_held)
            for client, call, count, is_held in calls
            for _ in range(count)
        ]

    for calls, client, count, given_up in (
        ([("a", 0, 3, False), ("a", 1, 2, False), ("b", 2, 1, False)], "b", 1, {"1": 2}),  # the latest of the greediest
        ([("a", 0, 3, True), ("a", 1, 2, False)], "b", 1, {"0": 3}),  # or one that is held
        ([("a", 0, 3, False)], "b", 3, {}),
        ([("a", 0, 3, False), ("a", 1, 8, False)], "a", 2, {"1": 8}),  # of one's own, the largest
        ([("a", 0, 3, False), ("a", 1, 1, True)], "a", 2, {"1": 1}),
        ([("a", 0, 2, False), ("b", 1, 2, False)], "a", 2, {}),
        ([], "a", 2, {}),
    ):
        assert Counter(call_that_gives_way(waiting(*calls), client, count)) == given_up


def test_a_newcomer_is_answered_beside_long_answers_and_all_have_their_tokens():
    async def everybody() -> None:
        generator = FakeGenerator(slots=4, context=10_000, seconds_per_step=0.001, ends=False)
        with running(generator) as service:
            long = [service.submit([request(number, max_tokens=700)], client="a") for number in range(6)]
            answers = [asyncio.ensure_future(tokens_of(one)) for one in long]
            assert await reaches(lambda: generator.steps > TURN_TOKENS)
            for client in "bbcacbaa":
                began, short = generator.steps, service.submit([request(99, max_tokens=5)], client=client)
                assert list((await tokens_of(short)).values()) == [expected(short.requests[0])]
                assert generator.steps - began < 2 * TURN_TOKENS
            for one, answer in zip(long, answers, strict=True):
                assert list((await answer).values()) == [expected(one.requests[0])]
            assert generator.suspensions >= 4

    asyncio.run(everybody())


def test_what_is_not_read_is_not_generated_ahead_and_has_the_same_tokens_later():
    async def everybody() -> None:
        generator = FakeGenerator(slots=2, context=10_000, ends=False, seconds_per_step=0.002)
        with running(generator) as service:
            unread = service.submit([request(1, max_tokens=700), request(2, max_tokens=700)], client="a")
            assert await reaches(lambda: len(generator.suspended) == 2)
            assert service.load().running == 0
            assert generator.steps < 20 * MOST_UNREAD  # the loop that reads may be late
            short = service.submit([request(99)], client="a")
            assert list((await tokens_of(short)).values()) == [expected(short.requests[0])]
            answers = await tokens_of(unread)
            assert answers == {one.name: expected(one) for one in unread.requests}

    asyncio.run(everybody())

"""Dispatch of requests to the least busy replica, or the one that has the prefix; equal answers from each."""

from __future__ import annotations

import asyncio
import random

import pytest

from megaphi.errors import RunFailed
from megaphi.generation import dispatch as module
from megaphi.generation.decoding.interface import Request
from megaphi.generation.dispatch import WORTH_REQUESTS, Dispatcher
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens

TALK = tuple(range(100))


def test_the_least_busy_is_chosen_for_what_is_new():
    dispatch = Dispatcher()
    assert dispatch.choose(TALK, [3, 1, 2]) == 1
    assert dispatch.choose((1, 2), [3, 1, 0]) == 2


def test_the_next_turn_goes_where_the_talk_is_unless_that_is_much_busier():
    dispatch = Dispatcher()
    assert dispatch.choose(TALK, [1, 0]) == 1
    assert dispatch.choose((*TALK, 7, 8, 9), [0, WORTH_REQUESTS]) == 1
    assert dispatch.choose((*TALK, 7, 8, 9), [0, WORTH_REQUESTS + 1]) == 0
    assert dispatch.choose((*TALK[:50], 1, 2, 3), [0, WORTH_REQUESTS]) == 0  # it went on there since


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED_BLOCKS", 10)
    dispatch = Dispatcher()
    dispatch.choose(TALK, [1, 0])
    for number in range(20):
        dispatch.choose((number,) * 20, [0, 3])
    assert len(dispatch._replica_of) == 10
    assert dispatch.choose(TALK, [0, 1]) == 0


class Slow(FakeGenerator):
    def __init__(self) -> None:
        super().__init__(slots=3, seconds_per_step=0.002, ends=False)
        self.names: list[str] = []

    def add(self, request: Request) -> None:
        self.names.append(request.name)
        super().add(request)


def asked(number: int) -> Request:
    rules = Sampling(max_tokens=5 + number % 9, temperature=1.0, seed=number)
    return Request(name="r", prompt=(number % 50,) * (1 + number % 40), sampling=rules)


async def answer(service: GenerationService, request: Request) -> list[int]:
    submission = service.submit([request])
    return [output.token async for output in submission if output.token is not None]


def test_every_replica_works_and_answers_are_the_same_from_each():
    replicas = [Slow(), Slow(), Slow()]
    service = GenerationService(*replicas, max_waiting=1000)

    async def everybody() -> list[list[int]]:
        return await asyncio.gather(*(answer(service, asked(number)) for number in range(90)))

    service.start()
    found = asyncio.run(everybody())
    service.close(timeout_seconds=10)
    right = [asked(number) for number in range(90)]
    assert found == [expected_tokens(one.prompt, one.sampling, ends=False) for one in right]
    assert min(len(replica.names) for replica in replicas) >= 20
    assert len({name for replica in replicas for name in replica.names}) == 90


def test_a_replica_that_fails_is_the_end_for_all():
    replicas = [Slow(), Slow()]
    service = GenerationService(*replicas)

    async def everybody() -> list[object]:
        answers = [asyncio.ensure_future(answer(service, asked(40 + number))) for number in range(8)]
        await asyncio.sleep(0.005)
        replicas[1].explode = True
        return await asyncio.gather(*answers, return_exceptions=True)

    service.start()
    found = asyncio.run(everybody())
    assert any(isinstance(item, RunFailed) for item in found)
    assert "out of memory" in (service.failure or "")
    with pytest.raises(RunFailed, match="out of memory"):
        asyncio.run(answer(service, asked(1)))
    service.close(timeout_seconds=10)


def test_a_request_is_cancelled_in_its_replica_only():
    replicas = [Slow(), Slow()]
    service = GenerationService(*replicas)

    async def leave() -> None:
        draw = random.Random(1)
        submissions = [service.submit([asked(number)]) for number in range(12)]
        await asyncio.sleep(0.004)
        for submission in draw.sample(submissions, 6):
            submission.cancel()
        for submission in submissions:
            async for _ in submission:
                pass

    service.start()
    asyncio.run(leave())
    service.close(timeout_seconds=10)
    assert service.load().running == service.load().waiting == 0
    for replica in replicas:
        assert set(replica.cancelled) <= set(replica.names)

"""The worker between handlers and a generator: outputs reach their reader, bounds, cancelling, failing, ending."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from megaphi.errors import InputError, RunFailed
from megaphi.generation.decoding.interface import Request, StepOutput
from megaphi.generation.workers import GenerationService, Submission, TooManyWaiting
from megaphi.sampling import Sampling
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens


@contextmanager
def running(generator: FakeGenerator, *, max_waiting: int = 256) -> Iterator[GenerationService]:
    service = GenerationService(generator, max_waiting=max_waiting)
    service.start()
    try:
        yield service
    finally:
        service.close(timeout_seconds=10)
    assert not [thread for thread in threading.enumerate() if thread.name == "generation"]


def request(*prompt: int, max_tokens: int = 5, sample: int = 0) -> Request:
    rules = Sampling(max_tokens=max_tokens, temperature=1.0, seed=3)
    return Request(name="r", prompt=prompt, sampling=rules, sample=sample)


def expected(one: Request) -> list[int]:
    return expected_tokens(one.prompt, one.sampling, sample=one.sample, ends=False)


async def tokens_of(submission: Submission) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {one.name: [] for one in submission.requests}
    async for output in submission:
        if output.token is not None:
            found[output.name].append(output.token)
    return found


@pytest.mark.parametrize("tokens_per_step", [1, 3])
def test_hundreds_of_callers_each_get_their_own_answers(tokens_per_step):
    async def caller(service: GenerationService, number: int) -> None:
        wanted = [request(number, place, max_tokens=1 + number % 7, sample=place) for place in range(1 + number % 3)]
        submission = service.submit(wanted)
        answers = await tokens_of(submission)
        for one in submission.requests:
            assert answers[one.name] == expected(one)

    async def everybody() -> None:
        generator = FakeGenerator(slots=5, tokens_per_step=tokens_per_step)
        with running(generator, max_waiting=1000) as service:
            await asyncio.gather(*(caller(service, number) for number in range(300)))
            assert service.load().waiting == service.load().running == 0

    asyncio.run(everybody())


def test_one_caller_is_not_disturbed_by_others_who_leave():
    async def visitor(service: GenerationService, number: int) -> None:
        draw = random.Random(number)
        submission = service.submit([request(number, max_tokens=400), request(number, 7, max_tokens=400)])
        if draw.random() < 0.3:
            await asyncio.sleep(0)
        else:
            for _ in range(draw.randrange(1, 20)):
                await anext(submission)
        submission.cancel(submission.requests[0].name if draw.random() < 0.5 else None)
        submission.cancel()
        assert [output async for output in submission] == []

    async def everybody() -> None:
        generator = FakeGenerator(slots=4)
        with running(generator) as service:
            steady = service.submit([request(99, max_tokens=300)])
            visitors = [visitor(service, number) for number in range(60)]
            answers, *_ = await asyncio.gather(tokens_of(steady), *visitors)
            assert list(answers.values()) == [expected(steady.requests[0])]
            assert await reaches(lambda: generator.is_idle)
            assert service.load().waiting == service.load().running == 0
            assert 0 < len(set(generator.cancelled)) <= 120  # the others left before the generator had them

    asyncio.run(everybody())


async def reaches(condition) -> bool:
    """Return whether the condition becomes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.01)
    return condition()


def test_waiting_requests_are_bounded_and_room_comes_back():
    async def everybody() -> None:
        with running(FakeGenerator(slots=1, seconds_per_step=0.01), max_waiting=3) as service:
            first = service.submit([request(1, max_tokens=400)])
            await anext(first)
            assert service.load().running == 1
            second = service.submit([request(2), request(3)])
            with pytest.raises(TooManyWaiting, match="2 requests are waiting and 2 more would exceed the limit of 3"):
                service.submit([request(4), request(5)])
            first.cancel()
            await tokens_of(second)
            await tokens_of(service.submit([request(4), request(5), request(6)]))

    asyncio.run(everybody())


def test_a_request_that_the_engine_refuses_is_its_callers_error_alone():
    async def everybody() -> None:
        with running(FakeGenerator()) as service:
            fine = service.submit([request(1)])
            bad = service.submit([request(1), Request(name="bad", prompt=())])
            with pytest.raises(InputError, match="0 tokens"):
                await tokens_of(bad)
            assert list((await tokens_of(fine)).values()) == [expected(fine.requests[0])]
            assert service.failure is None

    asyncio.run(everybody())


def test_a_failing_engine_fails_all_open_requests_and_all_later_ones():
    async def everybody() -> None:
        generator = FakeGenerator(seconds_per_step=0.01)
        with running(generator) as service:
            submissions = [service.submit([request(number, max_tokens=400)]) for number in range(5)]
            await anext(submissions[0])
            generator.explode = True
            for submission in submissions:
                with pytest.raises(RunFailed, match="the engine failed: RuntimeError: out of memory"):
                    await tokens_of(submission)
            with pytest.raises(RunFailed, match="out of memory"):
                service.submit([request(1)])
            assert service.failure == "the engine failed: RuntimeError: out of memory"

    asyncio.run(everybody())


def test_closing_ends_open_requests():
    async def everybody() -> None:
        with running(FakeGenerator(seconds_per_step=0.01)) as service:
            submission = service.submit([request(1, max_tokens=400)])
            await anext(submission)
        with pytest.raises(RunFailed, match="shutting down"):
            await tokens_of(submission)
        with pytest.raises(RunFailed, match="shutting down"):
            service.submit([request(1)])

    asyncio.run(everybody())


def test_an_idle_service_does_not_step():
    async def everybody() -> None:
        generator = FakeGenerator()
        with running(generator) as service:
            await tokens_of(service.submit([request(1)]))
            steps = generator.steps
            await asyncio.sleep(0.1)
            assert generator.steps == steps

    asyncio.run(everybody())


def test_a_closed_loop_does_not_stop_the_thread():
    generator = FakeGenerator(seconds_per_step=0.005)
    with running(generator) as service:

        async def leave() -> None:
            service.submit([request(1, max_tokens=10)])

        async def stay() -> list[StepOutput]:
            return [output async for output in service.submit([request(2)])]

        asyncio.run(leave())
        assert len(asyncio.run(stay())) == 5

"""Requests that are suspended and resumed at any time have the tokens that they have without.

The model is exact (`remembering_engine.py`): tokens, log-probabilities and alternatives are compared to the bit.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request
from megaphi.sampling import Sampling
from tests.generation.decoding.remembering_engine import remembering
from tests.generation.decoding.test_speculation import ASKED, requests_of, run

CHANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 13), st.integers(1, 12)), max_size=30)
"""(step, number of a request, steps for which it is suspended)."""


def run_suspending(engine, requests, changes):
    """Completions of requests that are all there from the start; at the end whatever is suspended is resumed."""
    found = {request.name: Completion() for request in requests}
    for request in requests:
        engine.add(request)
    for step in range(1_000):
        for begin, number, count in changes:
            name = str(number)
            if step == begin:
                engine.suspend(name)
            if step == begin + count:
                engine.resume(name)
        for output in engine.step():
            found[output.name].add(output)
        if step > 50 and engine.is_idle:
            break
    assert engine.scheduler.pool.free == engine.scheduler.pool.count
    return found


@given(
    asked=ASKED, changes=CHANGES, slots=st.integers(1, 5), prefill_tokens=st.integers(1, 20), blocks=st.integers(8, 40)
)
@settings(max_examples=60, deadline=None)
def test_answers_are_those_without_suspending(asked, changes, slots, prefill_tokens, blocks):
    requests = list(requests_of(asked))
    with remembering() as make:
        expected = run(make(blocks=64, slots=8, speculation=None), requests, {})
        engine = make(blocks=blocks, slots=slots, prefill_tokens=prefill_tokens, scored_tokens=5)
        assert run_suspending(engine, requests, changes) == expected


def test_a_suspended_request_takes_neither_slot_nor_blocks_and_can_be_cancelled():
    rules = Sampling(max_tokens=12, temperature=0.7)
    first, second = (Request(name=name, prompt=(1, 2, 3), sampling=rules) for name in ("first", "second"))
    with remembering() as make:
        engine = make(blocks=64, slots=1, speculation=None)
        engine.add(first)
        engine.add(second)
        assert [output.name for _ in range(3) for output in engine.step()] == ["first"] * 3
        assert engine.usage.starved == ("second",)
        engine.suspend("first")
        assert [output.name for _ in range(3) for output in engine.step()] == ["second"] * 3
        engine.suspend("second")
        assert engine.is_idle
        assert engine.usage.cache_blocks_used == 0
        assert engine.usage.preemptions == 2
        engine.cancel("first")
        assert [(output.name, output.finish) for output in engine.step()] == [("first", "cancelled")]
        engine.resume("second")
        assert [output.name for _ in range(9) for output in engine.step()] == ["second"] * 9
        assert engine.is_idle


@pytest.mark.parametrize("method", ["suspend", "resume"])
def test_unknown_names_are_ignored(method):
    with remembering() as make:
        engine = make(blocks=64, slots=1, speculation=None)
        getattr(engine, method)("nobody")
        assert engine.is_idle

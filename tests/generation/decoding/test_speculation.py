"""Drafts change when tokens come, never which: engines with and without them, over requests of every kind.

The model is exact (`remembering_engine.py`), so tokens, log-probabilities and alternatives are compared to the bit.
`test_inference_engine.py` does the same with a real model in every layout.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from megaphi.errors import InputError
from megaphi.generation.decoding.drafts import Speculation
from megaphi.generation.decoding.generate import Completion, complete
from megaphi.generation.decoding.interface import Request
from megaphi.sampling import Sampling
from tests.generation.decoding.remembering_engine import logits_after, remembering

ALWAYS = Speculation(pass_rows=1e9, longest_draft=6)
"""Drafts whatever was ever seen."""
PROMPTS = ([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7], [3, 1, 4, 1, 5, 9, 2, 6, 8, 8], [2, 7], [0])

RULES = st.builds(
    Sampling,
    max_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0.0, 0.4, 1.0]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 0, 3]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.4]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    seed=st.integers(0, 2),
    alternatives=st.sampled_from([0, 0, 2]),
)
ASKED = st.lists(
    st.tuples(
        RULES,
        st.sampled_from(PROMPTS),
        st.integers(0, 1),  # the sample: many are the same text
        st.sampled_from(["a", "a", "a", "b", ""]),
        st.sampled_from([frozenset[int](), frozenset({4}), frozenset({2, 7, 9})]),  # stop tokens
        st.sampled_from([frozenset[int](), frozenset[int](), frozenset({0, 1, 5})]),  # excluded at first
        st.sampled_from([None, None, None, 1, 4]),  # the step at which it is cancelled
        st.booleans(),  # scored
    ),
    min_size=2,
    max_size=14,
)


def requests_of(asked):
    for number, (rules, prompt, sample, family, stops, excluded, _, is_scored) in enumerate(asked):
        scored = len(prompt) // 2 if is_scored and number % 4 == 0 else 0
        yield Request(
            name=str(number),
            prompt=tuple(prompt),
            sampling=rules,
            sample=sample,
            family=family,
            stop_tokens=stops,
            excluded_first=frozenset() if scored else excluded,
            scored=scored,
        )


def run(engine, requests, cancelled):
    """Completions, and whether they were cancelled. Requests come in two waves, so that texts repeat finished ones."""
    found = {request.name: Completion() for request in requests}
    ended = set()
    half = len(requests) // 2
    for request in requests[:half]:
        engine.add(request)
    for step in range(10_000):
        if step == 3:
            for request in requests[half:]:
                engine.add(request)
        for name in cancelled.get(step, ()):
            engine.cancel(name)
        for output in engine.step():
            assert output.name not in ended
            found[output.name].add(output)
            if output.finish is not None:
                ended.add(output.name)
        if step > 3 and engine.is_idle:
            break
    assert ended == set(found)
    pool = engine.scheduler.pool
    assert pool.free == pool.count
    return found


@given(
    asked=ASKED,
    slots=st.integers(1, 5),
    prefill_tokens=st.integers(1, 20),
    scored_tokens=st.integers(1, 12),
    blocks=st.integers(8, 40),
    pass_rows=st.sampled_from([3.0, 1e9]),
)
@settings(max_examples=80, deadline=None)
def test_answers_are_those_without_drafts(asked, slots, prefill_tokens, scored_tokens, blocks, pass_rows):
    """Stop tokens, ends and cancellations inside of drafts, penalties, forced beginnings, preemptions, scores."""
    requests = list(requests_of(asked))
    cancelled = defaultdict(list)
    for request, (*_, step, _) in zip(requests, asked, strict=True):
        if step is not None:
            cancelled[step + 3].append(request.name)
    shape = {"slots": slots, "prefill_tokens": prefill_tokens, "scored_tokens": scored_tokens}
    with remembering() as make:
        expected = run(make(blocks=64, slots=8, speculation=None), requests, {})
        found = run(make(blocks=blocks, speculation=Speculation(pass_rows=pass_rows), **shape), requests, cancelled)
    for name, answer in found.items():
        whole = expected[name]
        if answer.finish == "cancelled":
            assert answer.tokens == whole.tokens[: len(answer.tokens)]
            assert answer.log_probabilities == whole.log_probabilities[: len(answer.tokens)]
        else:
            assert answer == whole


def samples(count, *, family="a", **fields):
    sampling = Sampling(**{"max_tokens": 12, "temperature": 0.7, **fields})
    return [
        Request(name=str(number), prompt=tuple(PROMPTS[0]), sampling=sampling, sample=number, family=family)
        for number in range(count)
    ]


def test_texts_that_repeat_each_other_take_fewer_passes():
    """The same text again costs a pass for seven tokens; other samples of the prompt gain what they share."""
    with remembering() as make:
        for requests, fewest in ((samples(12, temperature=0.0), 0.9), (samples(40), 0.2)):
            engine = make(blocks=64, slots=1, speculation=ALWAYS)
            passes = _passes(engine, requests)
            free = make(blocks=64, slots=1, speculation=None)
            alone = _passes(free, requests)
            usage = engine.usage
            assert usage.accepted_tokens >= fewest * usage.drafted_tokens > 0
            # Every token takes a pass, but for those that were accepted, and prefill.
            assert alone - passes == usage.accepted_tokens
            wrong = usage.drafted_tokens - usage.accepted_tokens
            assert engine.computed_tokens == free.computed_tokens + wrong
    assert passes < 0.7 * alone


def _passes(engine, requests):
    for request in requests:
        engine.add(request)
    for passes in range(1, 10_000):
        engine.step()
        if engine.is_idle:
            return passes
    raise AssertionError


def test_drafts_leave_the_distribution_as_it_is():
    """6,000 samples of three tokens, most of them drafted, against the law that the logits give."""
    count, vocabulary = 6_000, 4
    prompt = [1, 2]
    expected = {}
    for first, second, third in itertools.product(range(vocabulary), repeat=3):
        text, share = list(prompt), 1.0
        for token in (first, second, third):
            share *= logits_after(text, vocabulary=vocabulary).double().softmax(0)[token].item()
            text.append(token)
        expected[first, second, third] = share
    with remembering(vocabulary=vocabulary) as make:
        engine = make(blocks=600, slots=100, speculation=ALWAYS)
        rules = Sampling(max_tokens=3, temperature=1.0, seed=3)
        found = complete(
            engine,
            [
                Request(name=str(number), prompt=tuple(prompt), sampling=rules, sample=number, family="a")
                for number in range(count)
            ],
        )
    counts = defaultdict(int)
    for answer in found.values():
        counts[tuple(answer.tokens)] += 1
    assert engine.usage.drafted_tokens > 0.9 * count
    rows = sorted(expected, key=lambda key: -expected[key])
    common = [key for key in rows if expected[key] * count > 5]
    seen = [counts[key] for key in common]
    wanted = [expected[key] * count for key in common]
    assert chisquare([*seen, count - sum(seen)], [*wanted, count - sum(wanted)]).pvalue > 1e-3


@pytest.mark.parametrize("noise", [0.05, 4.0, 50.0])
@pytest.mark.parametrize("pass_rows", [2.0, 12.0, 200.0])
def test_the_rule_never_costs_much(noise, pass_rows):
    """From texts that repeat each other to noise, by the rule's own measure: passes and the tokens in them."""
    requests = samples(40, max_tokens=30, temperature=1.0)
    with remembering(noise=noise) as make:
        costs = []
        for speculation in (None, Speculation(pass_rows=pass_rows)):
            engine = make(blocks=400, slots=20, speculation=speculation)
            costs.append(_passes(engine, requests) * pass_rows + engine.computed_tokens)
    assert costs[1] < 1.02 * costs[0]
    if noise < 1 and pass_rows > 100:
        assert costs[1] < 0.92 * costs[0]


@pytest.mark.parametrize("fields", [{"family": ""}, {"is_off": True}])
def test_nothing_is_drafted_without_a_family_or_speculation(fields):
    with remembering() as make:
        engine = make(blocks=64, slots=2, speculation=None if fields.pop("is_off", False) else ALWAYS)
        complete(engine, samples(6, temperature=0.0, **fields))
        assert engine.usage.drafted_tokens == 0


def test_a_draft_takes_no_block_from_others():
    """The cache is just large enough for all: with drafts too, nobody is preempted."""
    requests = samples(6, temperature=0.0, max_tokens=10)
    needed = 6 * (-(-(14 + 10) // 4) - 3) + 3  # three blocks of the prompt are shared
    with remembering() as make:
        for blocks in (needed, needed + 2):
            engine = make(blocks=blocks, slots=6, speculation=ALWAYS)
            complete(engine, requests[:1])
            complete(engine, requests)
            assert engine.usage.preemptions == 0
            assert engine.usage.accepted_tokens > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"longest_draft": 0}, "speculation.longest_draft=0: must be at least 1"),
        ({"contexts": 1}, "speculation.contexts=1: must be at least 2"),
        ({"pass_rows": -1.0}, r"speculation.pass_rows=-1.0: must be finite and not negative"),
        ({"pass_rows": float("nan")}, "must be finite"),
    ],
)
def test_settings_that_cannot_be(fields, message):
    with remembering() as make, pytest.raises(InputError, match=message):
        make(blocks=10, speculation=Speculation(**fields))

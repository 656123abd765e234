"""Sampling over the whole range of its numbers, down to denormals, against a law in 80-bit floats, which reach further.

Rows of every kind share a batch. Logits are fp32, with ties, infinities and values near both ends of the format.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from megaphi.generation.decoding.generate import complete
from megaphi.generation.decoding.interface import Request, UndefinedLogits
from megaphi.generation.decoding.sampling_law import Row, sampled_probabilities
from megaphi.generation.decoding.scoring import TargetToken, score
from megaphi.generation.decoding.token_choice import UNDEFINED, choose
from megaphi.generation.workers import GenerationService
from megaphi.sampling import Sampling
from tests.generation.decoding import remembering_engine
from tests.generation.decoding.remembering_engine import remembering

VOCABULARY = 12
PROMPT, ANSWER = (0, 3, 3, 7), (2, 7, 2)
WIDE = np.longdouble
DENORMALS = [5e-324, 1e-320, 1e-310]
TEMPERATURES = st.sampled_from([0.0, *DENORMALS, 1e-200, 1e-46, 1e-40, 1e-20, 1e-5, 0.7, 1.0, 100.0, 1e10, 1e30])
RULES = st.builds(
    Sampling,
    temperature=TEMPERATURES,
    top_k=st.sampled_from([0, 0, 1, 3, 2**31 - 1]),
    top_p=st.sampled_from([*DENORMALS, 1e-40, 0.5, 1 - 2**-53, 1.0, 1.0]),
    min_p=st.sampled_from([0.0, 0.0, *DENORMALS, 1e-40, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, *DENORMALS, 1e-40, 0.01, 1.3, 100.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 5e-324, -1e-40, 100.0, -100.0]),
    frequency_penalty=st.sampled_from([0.0, 5e-324, 1e-40, 100.0, -100.0]),
    logit_bias=st.sampled_from([(), ((1, 100.0),), ((1, -100.0), (2, 5e-324)), ((3, 1e-40),)]),
    seed=st.integers(0, 1000),
)
LOGITS = st.lists(
    st.one_of(
        st.floats(-30, 30, width=32),
        st.sampled_from([0.0, 1.0, 1.0, -2.0, 3e38, -3e38, math.inf, -math.inf]),
    ),
    min_size=VOCABULARY,
    max_size=VOCABULARY,
)


def wide_law(logits: list[float], rules: Sampling) -> np.ndarray:
    """Probability of each token after all rules; the limit where a logit is infinite."""
    values = np.array(logits, dtype=np.float32).astype(WIDE)
    for token, bias in rules.logit_bias:
        values[token] += bias
    for token in {*PROMPT, *ANSWER}:
        penalty = WIDE(rules.repetition_penalty)
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token in set(ANSWER):
        values[token] -= WIDE(rules.presence_penalty) + WIDE(rules.frequency_penalty) * ANSWER.count(token)
    if np.isposinf(values).any():
        values = np.where(np.isposinf(values), WIDE(0), -WIDE(np.inf))
    order = sorted(range(VOCABULARY), key=lambda token: (-values[token], token))
    law = np.zeros(VOCABULARY, dtype=WIDE)
    if rules.temperature == 0:
        law[order[0]] = 1
        return law
    kept = order[: rules.top_k or None]
    shares = np.exp((values[kept] - values[order[0]]) / WIDE(rules.temperature))
    shares /= shares.sum()
    before = WIDE(0)
    for rank, (token, share) in enumerate(zip(kept, shares, strict=True)):
        if rank == 0 or (before < rules.top_p and share >= rules.min_p * shares[0]):
            law[token] = share
        before += share
    return law / law.sum()


def is_undefined(logits: list[float]) -> bool:
    return max(logits) == -math.inf


def falling(law: np.ndarray) -> list[float]:
    """The probabilities in falling order: which of two equal tokens a cut keeps is free."""
    return sorted((float(share) for share in law), reverse=True)


@given(batch=st.lists(st.tuples(LOGITS, RULES), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_the_law_is_exact_over_the_whole_range(batch):
    batch = [(logits, rules) for logits, rules in batch if not is_undefined(logits)]
    assume(batch)
    logits_WV = torch.tensor([logits for logits, _ in batch], dtype=torch.float32)
    rows = [Row(rules, 0, PROMPT, ANSWER) for _, rules in batch]
    found = np.array(
        [sampled_probabilities(logits_WV.clone(), rows, [token] * len(rows)) for token in range(VOCABULARY)]
    ).T
    chosen = choose(logits_WV.clone(), rows)
    for (logits, rules), law, token in zip(batch, found, chosen.tokens, strict=True):
        expected = wide_law(logits, rules)
        assert falling(law) == pytest.approx(falling(expected), rel=1e-6, abs=1e-9), (logits, rules)
        assert law[token] > 0, (logits, rules)
    assert not any(math.isnan(value) for value in chosen.log_probabilities)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-40, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_logits_that_are_no_numbers_are_said_so_and_neighbours_are_not_touched(temperature, wrong):
    rules = Sampling(temperature=temperature, alternatives=2)
    logits_WV = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1))
    whole = choose(logits_WV.clone(), [Row(rules, 0, (), ())] * 3)
    if math.isnan(wrong):
        logits_WV[1, 4] = wrong
    else:
        logits_WV[1] = wrong
    found = choose(logits_WV.clone(), [Row(rules, 0, (), ())] * 3)
    assert found.tokens == [whole.tokens[0], UNDEFINED, whole.tokens[2]]
    told = score(logits_WV, [TargetToken(2, Row(rules, 0, (), ()))] * 3)
    assert [math.isnan(one.log_probability) for one in told] == [False, True, False]


def test_where_all_that_is_allowed_is_impossible_nothing_is_chosen():
    logits_V = torch.randn(VOCABULARY)
    logits_V[:3] = -math.inf
    allowed = np.arange(VOCABULARY) < 3
    assert choose(logits_V[None], [Row(Sampling(temperature=1.0), 0, (), (), allowed)]).tokens == [UNDEFINED]


def test_only_the_request_with_undefined_logits_fails(monkeypatch):
    """One prompt makes the model overflow: it raises for its own, in programs and in the server's service."""
    usual = remembering_engine.logits_after

    def overflowing(text, **rules):
        logits_V = usual(text, **rules)
        return logits_V * math.nan if text[0] == 9 else logits_V

    monkeypatch.setattr(remembering_engine, "logits_after", overflowing)
    with remembering() as make:
        good = Request(name="good", prompt=(1, 2), sampling=Sampling(max_tokens=5))
        bad, scored = replace(good, name="bad", prompt=(9, 2)), replace(good, name="scored", prompt=(9, 2), scored=1)
        alone = complete(make(blocks=32), [good])["good"].tokens
        for request in (bad, scored):
            with pytest.raises(UndefinedLogits, match="not a number"):
                complete(make(blocks=32), [request])
        service = GenerationService(make(blocks=32))

        async def answer(request):
            return [output.token async for output in service.submit([request])]

        async def together():
            return await asyncio.gather(answer(bad), answer(good), answer(scored), return_exceptions=True)

        service.start()
        refused, answered, unscored = asyncio.run(together())
        service.close()
    assert answered == alone
    assert isinstance(refused, UndefinedLogits)
    assert isinstance(unscored, UndefinedLogits)
    assert service.failure == "the server is shutting down"

"""Sharing rollouts between prefixes keeps their law, and gives every draw its own, in an order that does not change."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megaphi.pivotal.methods.rollout import Draw, Rollout
from megaphi.pivotal.rollouts.prefix_reuse import QuestionRollouts
from megaphi.pivotal.rollouts.store import RolloutKey
from tests.pivotal.small_world import STOP, TOKENS, drawn, is_right, law, otherwise, prompt_of, success

PROMPT = prompt_of(0)


def sampled(generator: np.random.Generator, prefix: tuple[int, ...], excluded: int | None) -> Rollout:
    """A rollout of the small model."""
    tokens: list[int] = []
    while not tokens or tokens[-1] != STOP:
        probabilities = np.array(law((*prefix, *tokens)))
        if excluded is not None and not tokens:
            probabilities[excluded] = 0.0
        tokens.append(drawn(probabilities, generator.random()))
    return Rollout(tuple(tokens), "success" if is_right((*prefix, *tokens)) else "failure")


def answered(
    rollouts: QuestionRollouts, draw: Draw, answer: tuple[int, ...], generator: np.random.Generator
) -> list[Rollout]:
    """Answer a draw as the runner does."""
    found = []
    for item in rollouts.wanted(draw, answer):
        if isinstance(item, RolloutKey):
            new = sampled(generator, (*PROMPT, *answer[: draw.position]), draw.excluded)
            rollouts.learn(item, draw, answer, new)
            found.append(new)
        else:
            found.append(item)
    return found


def trace_of(generator: np.random.Generator) -> tuple[int, ...]:
    while len(tokens := sampled(generator, PROMPT, None).tokens) < 4:
        pass
    return tokens


def test_shared_rollouts_have_the_law_of_the_longer_prefix_and_of_the_divergence() -> None:
    """Over many searches: success rates and first tokens of shared rollouts, against enumeration."""
    generator = np.random.default_rng(0)
    trace = trace_of(np.random.default_rng(1))
    plain: list[Rollout] = []
    diverged: list[Rollout] = []
    for _ in range(400):
        rollouts = QuestionRollouts("q", PROMPT)
        answered(rollouts, Draw(position=0, count=60, purpose="search"), trace, generator)
        plain += answered(rollouts, Draw(position=1, count=3, purpose="search"), trace, generator)
        excluded = Draw(position=1, count=4, excluded=trace[1], purpose="search")
        diverged += answered(rollouts, excluded, trace, generator)
    shared = [one for one in plain if one.is_shared]
    assert len(shared) > 500
    here = (*PROMPT, trace[0])
    within(shared, success(here))
    first = np.bincount([one.tokens[0] for one in shared], minlength=TOKENS + 1) / len(shared)
    assert np.abs(first - law(here)).max() < 4 * np.sqrt(0.25 / len(shared))
    forced = [one for one in diverged if one.is_shared]
    assert len(forced) > 300
    assert all(one.tokens[0] != trace[1] for one in diverged)
    within(forced, otherwise(here, trace[1]))


def within(rollouts: list[Rollout], p: float) -> None:
    """The share of successes lies within four standard errors of `p`."""
    share = np.mean([one.outcome == "success" for one in rollouts])
    assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / len(rollouts))


@given(st.integers(0, 10_000), st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 12)), max_size=12))
def test_a_draw_keeps_what_it_was_given_and_no_rollout_comes_twice(
    seed: int, asked: list[tuple[int, bool, int]]
) -> None:
    generator = np.random.default_rng(seed)
    trace = trace_of(generator)
    rollouts = QuestionRollouts("q", PROMPT)
    given_before: dict[tuple[int, int | None], list[Rollout]] = {}
    for position, is_forced, count in asked:
        excluded = trace[position] if is_forced else None
        draw = Draw(position=position, count=count, excluded=excluded, purpose="search")
        found = answered_again(rollouts, draw, trace, generator, given_before.get((position, excluded), []))
        assert len(found) == count
        before = given_before.setdefault((position, excluded), found)
        if len(found) > len(before):
            given_before[position, excluded] = found


def answered_again(
    rollouts: QuestionRollouts,
    draw: Draw,
    trace: tuple[int, ...],
    generator: np.random.Generator,
    before: list[Rollout],
) -> list[Rollout]:
    """Answer a draw; what it had before comes first, and only what is more is asked for."""
    wanted = rollouts.wanted(draw, trace)
    keys = [item for item in wanted if isinstance(item, RolloutKey)]
    assert len(set(keys)) == len(keys)
    found = []
    for number, item in enumerate(wanted):
        if number < len(before):
            found.append(before[number])
            if isinstance(item, Rollout):
                assert item == before[number]
        elif isinstance(item, RolloutKey):
            new = sampled(generator, (*PROMPT, *trace[: draw.position]), draw.excluded)
            rollouts.learn(item, draw, trace, new)
            found.append(new)
        else:
            found.append(item)
    return found


def test_confirmation_shares_nothing_and_a_trace_is_never_a_sample() -> None:
    generator = np.random.default_rng(5)
    rollouts = QuestionRollouts("q", PROMPT)
    first = Draw(position=0, count=40, purpose="search")
    answered(rollouts, first, (), generator)
    keys = [key for key in rollouts.wanted(first, ()) if isinstance(key, RolloutKey)]
    trace = trace_of(generator)
    confirm = rollouts.wanted(Draw(position=1, count=10, purpose="confirm"), trace)
    assert all(isinstance(item, RolloutKey) and item.purpose == "confirm" for item in confirm)
    rollouts.keep_out(keys[0])
    again = rollouts.wanted(first, ())
    assert keys[0] not in again
    assert again[:39] == keys[1:]
    assert again[39] == keys[0]._replace(number=40)

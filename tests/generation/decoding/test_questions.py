"""The host asks the device once in a decode step, whatever the rules: one copy, of all that it wants to know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from megaphi.generation.decoding import sampling_law
from megaphi.generation.decoding.sampling_law import Row
from megaphi.generation.decoding.token_choice import NOTHING_LEFT, UNDEFINED, choose
from megaphi.sampling import Sampling
from tests.generation.decoding.question_runs import asked_by_steps
from tests.generation.decoding.questions import asked_by
from tests.gloo_world import run_in_new_world

VOCABULARY = 600
PLAIN = Sampling(max_tokens=9)
DRAWN = Sampling(max_tokens=9, temperature=0.8)
RULES = {
    "greedy": [PLAIN],
    "drawn": [DRAWN],
    "top-k, top-p, min-p": [replace(DRAWN, top_k=40, top_p=0.9, min_p=0.01)],
    "penalties": [replace(DRAWN, repetition_penalty=1.3, presence_penalty=0.2, frequency_penalty=0.1)],
    "biases": [replace(PLAIN, logit_bias=((3, 2.0), (5, -100.0)))],
    "alternatives": [replace(PLAIN, alternatives=4)],
    "all of them": [PLAIN, DRAWN, replace(DRAWN, top_p=0.9), replace(DRAWN, top_k=3, alternatives=2), PLAIN],
}


def rows_of(rules: list[Sampling], *, allowed: bool = False, excluded: frozenset[int] = frozenset()) -> list[Row]:
    mask = np.arange(VOCABULARY) % 2 == 0 if allowed else None
    return [Row(rule, number, (1, 2, 3), (4, 4, 5), mask, excluded) for number, rule in enumerate(rules)]


def peaked(rows: int) -> torch.Tensor:
    """Logits of which few tokens have nearly all the probability, so that no top-p looks beyond the first ones."""
    logits_WV = torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(1))
    logits_WV[:, 10:20] += 12
    return logits_WV


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("limits", [{}, {"allowed": True}, {"excluded": frozenset({11, 12})}], ids=str)
def test_a_choice_asks_once(name: str, limits: dict) -> None:
    rows = rows_of(RULES[name], **limits)
    logits_WV = peaked(len(rows))
    assert asked_by(lambda: choose(logits_WV, rows)) == {"tolist": 1}


def test_a_row_that_wants_a_second_look_costs_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_law, "CANDIDATES", 8)
    rows = rows_of([replace(DRAWN, top_p=0.99), PLAIN, replace(DRAWN, top_p=0.1)])
    assert asked_by(lambda: choose(peaked(3), rows)) == {"tolist": 2}


def test_what_is_excluded_or_undefined_is_found_without_more_than_its_own_questions() -> None:
    logits_WV = peaked(2)
    top = int(logits_WV[0].argmax())
    found = []
    rows = rows_of([PLAIN, PLAIN], excluded=frozenset({top}))
    assert asked_by(lambda: found.append(choose(logits_WV, rows))) == {"tolist": 1}
    assert found[0].tokens[0] == NOTHING_LEFT
    logits_WV[1, 7] = torch.nan
    assert "item" not in asked_by(lambda: found.append(choose(logits_WV, rows_of([DRAWN, DRAWN]))))
    assert found[1].tokens[0] != UNDEFINED == found[1].tokens[1]


def test_a_decode_step_of_the_engine_asks_once() -> None:
    """With steps of fixed shape and without; drafts and samples of one prompt among them, and none in the model."""
    (found,) = run_in_new_world(asked_by_steps, processes=1)
    for case, steps in found.items():
        assert len(steps) > 3, case
        assert all(asked == {"tolist": 1} for asked in steps), (case, steps)

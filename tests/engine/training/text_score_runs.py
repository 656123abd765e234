"""Ranks of the test of texts' scores: scores of one model under several layouts, and training with scoring between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from megaphi.engine.run_config import RunConfig


def some_texts(vocabulary: int, *, longest: int, seed: int = 5) -> list[Any]:
    """Texts of all lengths; some continue others, some end in another token only, and one is there twice."""
    from megaphi.engine.training.text_scores import ScoredText

    draw = np.random.default_rng(seed)
    texts = []
    for length in (2, 3, 5, 9, 14, 20, longest, longest + 1):
        tokens = tuple(draw.integers(vocabulary, size=length).tolist())
        texts.append(ScoredText(tokens, int(draw.integers(1, length))))
        texts += [ScoredText((*tokens[:-1], last), 1) for last in (3, 7)]
        texts.append(ScoredText(tokens[: max(2, length // 2)], 1))
    letters = [ScoredText((9, 8, 7, letter), 1) for letter in range(vocabulary)]  # exactly one of them is greedy
    return [*texts, texts[0], *letters]


def scored(runs: Sequence[RunConfig]) -> list[list[tuple[float, bool]]]:
    """For each run, of a model that has learnt nothing: the scores."""
    from megaphi.engine.training.text_scores import score_texts
    from tests.engine.layout_runs import build

    found = []
    for run in runs:
        texts = some_texts(run.model.vocabulary, longest=run.batch.sequence_length)
        found.append([tuple(score) for score in score_texts(build(run), texts)])
    return found


def scored_one_by_one(run: RunConfig) -> list[tuple[float, bool]]:
    """The same without batches, merged rows and schedules: each text passes alone."""
    import torch

    from megaphi.model.forward.attention import Causal
    from megaphi.model.forward.context import ForwardContext
    from megaphi.model.forward.targets import AllLogits
    from tests.engine.layout_runs import build

    (module,) = build(run).modules
    found = []
    for tokens, count in some_texts(run.model.vocabulary, longest=run.batch.sequence_length):
        with torch.no_grad():
            context = ForwardContext(attention=Causal(), targets=AllLogits())
            logits_SV = module(torch.tensor([tokens[:-1]]), context)[0, -count:, : run.model.vocabulary].double()
        next_S = torch.tensor(tokens[-count:])
        total = logits_SV.log_softmax(-1)[torch.arange(count), next_S].sum().item()
        found.append((total, bool((logits_SV.argmax(-1) == next_S).all())))
    return found


def trained(run: RunConfig, *, steps: int) -> list[dict[str, Any]]:
    """A run twice: as it is, and with texts scored after every update."""
    return [_trained(run, steps=steps, score=score) for score in (False, True)]


def _trained(run: RunConfig, *, steps: int, score: bool) -> dict[str, Any]:
    """Losses, gradient norms, weights, random states and modes of modules; and the scores."""
    from megaphi.engine.saving.random_states import _states
    from megaphi.engine.training.text_scores import score_texts
    from tests.engine.layout_runs import train

    texts = some_texts(run.model.vocabulary, longest=run.batch.sequence_length)
    states, scores = [], []

    def after(model: Any) -> None:
        if score:
            scores.append([total for total, _ in score_texts(model, texts)])
        states.append({name: bytes(value.numpy().data) for name, value in _states(model.world).items()})
        states.append([chunk.training for chunk in model.chunks for chunk in chunk.modules()])

    found = train(run, steps=steps, after_step=after)
    return {"run": {**found, "states": states}, "scores": scores}


def drawn_within(run: RunConfig) -> list[bool]:
    """For each kind of generator: True if it goes on after `same_random_states` as if nothing had drawn within."""
    import random

    import torch

    from megaphi.engine.saving.random_states import same_random_states
    from tests.engine.layout_runs import build

    world = build(run).world
    draws: Any = (random.random, np.random.random_sample, lambda: torch.rand(1).item())
    found = []
    for draw in draws:
        with same_random_states(world):
            first = [draw() for _ in range(3)]
        found.append(first == [draw() for _ in range(3)])
    return found


def phases_while_scoring(run: RunConfig) -> tuple[list[str], dict[str, float]]:
    """The phases that the heartbeat sees in every pass, and the durations that are written down."""
    from megaphi.engine.training import text_scores
    from tests.engine.layout_runs import build

    model = build(run)
    activity, seen, run_schedule = model.world.activity, [], text_scores.run_schedule
    text_scores.run_schedule = lambda *given, **named: (seen.append(activity.phase), run_schedule(*given, **named))[1]
    activity.take_seconds()
    activity.enter("evaluation")
    try:
        text_scores.score_texts(model, some_texts(run.model.vocabulary, longest=run.batch.sequence_length))
    finally:
        text_scores.run_schedule = run_schedule
    activity.enter("metrics")
    return seen, activity.take_seconds()

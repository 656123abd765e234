"""Warm-up and decay at the steps where they can go wrong, with the paper's numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.learning_rate import learning_rate
from megaphi.engine.run_config import Optimizer

PHI4 = Optimizer(learning_rate=3e-4, warmup_steps=2_000, final_fraction=0.1)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, 1.5e-7), (1_000, 1.5e-4), (2_000, 3e-4), (213_000, 1.65e-4), (424_000, 3e-5), (500_000, 3e-5)],
)
def test_phi4_schedule(step, rate):
    assert learning_rate(step, PHI4, steps=424_000) == pytest.approx(rate, rel=1e-12)


def test_no_warmup_starts_just_below_the_peak():
    rates = [learning_rate(step, Optimizer(learning_rate=1.0, warmup_steps=0), steps=10) for step in range(1, 11)]
    assert rates == pytest.approx([1 - 0.09 * step for step in range(1, 11)])


@given(warmup=st.integers(0, 50), decay=st.integers(1, 50), final=st.floats(0, 1))
def test_it_is_torchs_linear_schedule(warmup, decay, final):
    """SequentialLR of two LinearLR, read before the update that uses it."""
    settings = Optimizer(learning_rate=2.0, warmup_steps=warmup, final_fraction=final)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    rising = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / max(1, warmup))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, final, total_iters=decay) if final > 0 else None
    for step in range(1, warmup + 1):
        optimizer.step()
        rising.step()
        assert learning_rate(step, settings, steps=warmup + decay) == pytest.approx(optimizer.param_groups[0]["lr"])
    if falling is None:
        return
    optimizer.param_groups[0]["lr"] = 2.0
    for step in range(warmup + 1, warmup + decay + 1):
        optimizer.step()
        falling.step()
        assert learning_rate(step, settings, steps=warmup + decay) == pytest.approx(optimizer.param_groups[0]["lr"])

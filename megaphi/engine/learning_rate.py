"""The learning rate as a pure function of the step: linear warm-up, then linear decay (paper, section 3)."""

from __future__ import annotations

from megaphi.engine.run_config import Optimizer


def learning_rate(step: int, optimizer: Optimizer, *, steps: int) -> float:
    """Rate of the update number `step` (the first is 1) in a run of `steps` updates.

    Rises linearly from 0 to the peak over the warm-up, then falls linearly to `final_fraction` of it at the last.
    """
    if step <= optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    done = (step - optimizer.warmup_steps) / (steps - optimizer.warmup_steps)
    return optimizer.learning_rate * (1 - (1 - optimizer.final_fraction) * min(done, 1.0))

"""The learning rate as a pure function of the step, and what a change of the schedule does to a run that goes on.

Every schedule rises linearly from zero over the warm-up. After it, `linear` (paper, section 3) and `cosine` fall to the
floor over the steps of the decay and stay there, `wsd` holds the peak until the last steps of the run and falls
linearly in them, `constant` holds it to the end. The surprising fact: linear and cosine depend on `run.steps`, so a
finished run that is given more steps would climb back up. `check_rate_continues` refuses that unless it is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from megaphi.config import difference, from_plain, to_plain
from megaphi.engine.run_config import Optimizer, RunConfig, decay_span
from megaphi.errors import InputError

SMALLEST_JUMP = 0.01
"""A resumed run's rate may be off by this part of what it would have been before it is called a jump."""


def learning_rate(step: int, optimizer: Optimizer, *, steps: int) -> float:
    """Rate of the update number `step` (the first is 1) in a run of `steps` updates."""
    if step <= optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    begin, end = decay_span(optimizer, steps=steps)
    done = min(max((step - begin) / (end - begin), 0.0), 1.0) if end > begin else 0.0
    fallen = (1 - math.cos(math.pi * done)) / 2 if optimizer.schedule == "cosine" else done
    return optimizer.learning_rate * (1 - (1 - optimizer.final_fraction) * fallen)


def milestones(optimizer: Optimizer, *, steps: int) -> list[int]:
    """Steps whose rates show the whole schedule: the first, the ends of warm-up and decay, its middle, the last."""
    begin, end = decay_span(optimizer, steps=steps)
    places = {1, optimizer.warmup_steps, begin, (begin + end) // 2, end, steps}
    return sorted(place for place in places if 1 <= place <= steps)


def check_rate_continues(config: Mapping[str, Any], run: RunConfig, *, step: int) -> None:
    """Refuse to go on from a checkpoint after `step` updates, of a run of this `config`, at another learning rate.

    Raises:
        InputError: with both rates, what was changed, and how to go on without a jump or with it.
    """
    if run.run.accept_rate_jump or step >= run.run.steps or "optimizer" not in config:
        return
    before, steps_before = from_plain(Optimizer, config["optimizer"], where="optimizer"), config["run"]["steps"]
    expected = learning_rate(step + 1, before, steps=steps_before)
    found = learning_rate(step + 1, run.optimizer, steps=run.run.steps)
    if abs(found - expected) <= SMALLEST_JUMP * expected:
        return
    changes = [
        f"{path} from {old} to {new}"
        for path, old, new in difference(_schedule(before, steps_before), _schedule(run.optimizer, run.run.steps))
    ]
    raise InputError(
        f"the learning rate would jump from {expected:.3g} to {found:.3g} at step {step + 1:,} of {run.run.folder}:"
        f" changed are {', '.join(changes)}. {_remedy(before, steps_before, run)}; or, if the jump is meant, set"
        " run.accept_rate_jump=true"
    )


def _schedule(optimizer: Optimizer, steps: int) -> dict[str, Any]:
    """Every field that the rate depends on, with its path."""
    fields = ("schedule", "learning_rate", "final_fraction", "warmup_steps", "decay_steps")
    plain = to_plain(optimizer)
    return {"run": {"steps": steps}, "optimizer": {name: plain[name] for name in fields}}


def _remedy(before: Optimizer, steps_before: int, run: RunConfig) -> str:
    """How the run can take the steps that it was given without a jump."""
    if run.optimizer != before:
        return "Put the old values back"
    begin, end = decay_span(before, steps=steps_before)
    if before.schedule == "wsd":
        return f"Extend a wsd run from a checkpoint before its decay, which began after step {begin:,}"
    kept = f"optimizer.decay_steps={end - begin}"
    return f"Set {kept}, which keeps the schedule as it was: the rate stays at its floor from step {end:,} on"

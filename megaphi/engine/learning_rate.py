"""The learning rate as a pure function of the step, and the check that a resumed run continues it.

Every schedule rises linearly from zero over the warm-up. After it, `linear` (paper, section 3) and `cosine` fall to the
floor over the steps of the decay and stay there, `wsd` holds the peak until the last steps of the run and falls
linearly in them, `constant` holds it to the end. The surprising fact: linear and cosine depend on `training.steps`, so
the rate of a finished run that is given more steps would climb back up. `check_rate_continues` refuses that unless it
is intended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from megaphi.config import Range, difference, from_plain, to_plain
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.engine.run_config import RunConfig

SMALLEST_JUMP = 0.01
"""Relative change of a resumed run's rate above which it counts as a jump."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """AdamW and its learning rate (config section `optimizer`)."""

    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """After a linear warm-up: linear (paper) or cosine decay; wsd: the peak, then a linear decay to the run's end."""
    learning_rate: Annotated[float, Range(above=0)] = 3e-4
    """Peak (paper)."""
    final_fraction: Annotated[float, Range(minimum=0, maximum=1)] = 0.1
    """Learning rate at the end of the decay, as a fraction of the peak (default; the paper is silent)."""
    warmup_steps: Annotated[int, Range(minimum=0)] = 2_000
    """Steps of linear warm-up from zero (default)."""
    decay_steps: Annotated[int, Range(minimum=0)] = 0
    """Length of the decay; 0: all steps after the warm-up (linear, cosine), or the last tenth of them (wsd)."""
    weight_decay: Annotated[float, Range(minimum=0)] = 0.1
    """Decoupled weight decay of matrices, never of norms (paper: 0.1)."""
    beta1: Annotated[float, Range(minimum=0, below=1)] = 0.9
    """Default; the paper is silent."""
    beta2: Annotated[float, Range(minimum=0, below=1)] = 0.95
    """Default; the paper is silent."""
    eps: Annotated[float, Range(above=0)] = 1e-8
    """Default; the paper is silent."""
    clip_gradient_norm: Annotated[float, Range(minimum=0)] = 1.0
    """Largest global norm of the gradient (default); 0 turns clipping off."""


def learning_rate(step: int, optimizer: Optimizer, *, steps: int) -> float:
    """Learning rate of update `step` (the first is 1) in a run of `steps` updates."""
    if step <= optimizer.warmup_steps:
        return optimizer.learning_rate * step / optimizer.warmup_steps
    begin, end = decay_span(optimizer, steps=steps)
    done = min(max((step - begin) / (end - begin), 0.0), 1.0) if end > begin else 0.0
    fallen = (1 - math.cos(math.pi * done)) / 2 if optimizer.schedule == "cosine" else done
    return optimizer.learning_rate * (1 - (1 - optimizer.final_fraction) * fallen)


def decay_span(optimizer: Optimizer, *, steps: int) -> tuple[int, int]:
    """(last step at the peak, first step at the floor) of a run of `steps` updates; equal where nothing decays."""
    after_warmup = steps - optimizer.warmup_steps
    if optimizer.schedule == "constant":
        return steps, steps
    if optimizer.schedule == "wsd":
        return steps - (optimizer.decay_steps or -(-after_warmup // 10)), steps
    return optimizer.warmup_steps, optimizer.warmup_steps + (optimizer.decay_steps or after_warmup)


def check_schedule(optimizer: Optimizer, *, steps: int) -> None:
    """Refuse a schedule that does not fit into `steps` updates. Raises InputError."""
    if optimizer.warmup_steps >= steps:
        raise InputError(
            f"optimizer.warmup_steps={optimizer.warmup_steps} leaves no step after the warm-up of "
            f"training.steps={steps}: set optimizer.warmup_steps below {steps}"
        )
    if optimizer.schedule == "constant" and optimizer.decay_steps:
        raise InputError(f"optimizer.decay_steps={optimizer.decay_steps}: optimizer.schedule=constant has no decay")
    most = steps - optimizer.warmup_steps
    if optimizer.schedule == "wsd" and optimizer.decay_steps > most:
        raise InputError(
            f"optimizer.decay_steps={optimizer.decay_steps} and optimizer.warmup_steps={optimizer.warmup_steps} do not "
            f"both fit into training.steps={steps}: set optimizer.decay_steps to at most {most}"
        )


def milestones(optimizer: Optimizer, *, steps: int) -> list[int]:
    """Steps whose rates show the whole schedule: the first, the ends of warm-up and decay, its middle, the last."""
    begin, end = decay_span(optimizer, steps=steps)
    places = {1, optimizer.warmup_steps, begin, (begin + end) // 2, end, steps}
    return sorted(place for place in places if 1 <= place <= steps)


def check_rate_continues(config: Mapping[str, Any], run: RunConfig, *, step: int) -> None:
    """Refuse to continue at another learning rate than the run had.

    Args:
        config: the configuration in the checkpoint.
        step: updates that the checkpoint's run had taken.

    Raises:
        InputError: with both rates, the changed fields, and how to continue without a jump or with it.
    """
    if run.start.accept_rate_jump or step >= run.training.steps or "optimizer" not in config:
        return
    before, steps_before = from_plain(Optimizer, config["optimizer"], where="optimizer"), config["training"]["steps"]
    expected = learning_rate(step + 1, before, steps=steps_before)
    found = learning_rate(step + 1, run.optimizer, steps=run.training.steps)
    if abs(found - expected) <= SMALLEST_JUMP * expected:
        return
    changes = [
        f"{path} from {old} to {new}"
        for path, old, new in difference(_schedule(before, steps_before), _schedule(run.optimizer, run.training.steps))
    ]
    raise InputError(
        f"the learning rate would jump from {expected:.3g} to {found:.3g} at step {step + 1:,} of {run.folder}:"
        f" changed are {', '.join(changes)}. {_remedy(before, steps_before, run)}; or, if the jump is meant, set"
        " start.accept_rate_jump=true"
    )


def _schedule(optimizer: Optimizer, steps: int) -> dict[str, Any]:
    """Every field that the rate depends on, with its path."""
    fields = ("schedule", "learning_rate", "final_fraction", "warmup_steps", "decay_steps")
    plain = to_plain(optimizer)
    return {"training": {"steps": steps}, "optimizer": {name: plain[name] for name in fields}}


def _remedy(before: Optimizer, steps_before: int, run: RunConfig) -> str:
    """Explain how to take the given number of steps without a jump."""
    if run.optimizer != before:
        return "Put the old values back"
    begin, end = decay_span(before, steps=steps_before)
    if before.schedule == "wsd":
        return f"Extend a wsd run from a checkpoint before its decay, which began after step {begin:,}"
    kept = f"optimizer.decay_steps={end - begin}"
    return f"Set {kept}, which keeps the schedule as it was: the rate stays at its floor from step {end:,} on"

"""The runs of a ladder: sizes x learning rates x seeds, and later the target at the rate that was fitted.

Every run is `megaphi train` with the recipe, the user's fields, and the fields of its rung. All are measured on the
same held-out samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError
from megaphi.model.arithmetic import flops_per_token
from megaphi.planning.ladder.dial import Rung, rung_of
from megaphi.planning.ladder.law import LEAST_SIZES, Sweep
from megaphi.planning.small_runs import LOSS, SmallRun, train_command
from megaphi.stages.pretrain import Pretrain, mixture_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderSettings:
    """Runs of a ladder, and their resources."""

    recipe: str
    """As `megaphi train` takes it."""
    fields: tuple[str, ...]
    """field=value of every run."""
    folder: Path
    sizes: tuple[float, ...]
    target: float
    """Parameters of the layers, as the dial takes them."""
    tokens_per_parameter: float = 20.0
    rate_factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Learning rates of every size, as multiples of the rule's."""
    seeds: int = 2
    target_seeds: int = 1
    seed: int = 1_234
    """The first seed."""
    processes: int = 1
    at_once: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Ladder:
    """The rungs of a ladder by size, and its target."""

    rungs: tuple[Rung, ...]
    target: Rung


def plan_ladder(settings: LadderSettings, base: RunConfig) -> Ladder:
    """The rungs that the sizes mean.

    Raises:
        InputError: too few sizes, rates or seeds, a target among the sizes, or a recipe that is no pretraining.
    """
    _check(settings, base)
    replicas = settings.processes // base.layout.model_ranks
    rungs = [
        rung_of(size, base, tokens_per_parameter=settings.tokens_per_parameter, replicas=replicas)
        for size in sorted({*settings.sizes, settings.target})
    ]
    distinct = {rung.parameters: rung for rung in rungs}
    *small, target = (distinct[parameters] for parameters in sorted(distinct))
    if len(small) < LEAST_SIZES or len(distinct) < len(rungs):
        shapes = ", ".join(f"{parameters:,}" for parameters in sorted(distinct))
        raise InputError(
            f"--sizes and --target mean models of {shapes} parameters: at least {LEAST_SIZES} below the target are"
            " needed, all different"
        )
    return Ladder(rungs=tuple(small), target=target)


def _check(settings: LadderSettings, base: RunConfig) -> None:
    if not isinstance(base.task, Pretrain) or mixture_of(base).stages or not base.training.steps:
        raise InputError(f"{base.recipe}: a ladder is of pretraining on one mixture, with training.steps")
    if without := [source.name for source in mixture_of(base).sources if not source.validation_paths]:
        raise InputError(f"{base.recipe}: the sources need validation_paths, but {', '.join(without)} have none")
    if settings.target <= max(settings.sizes):
        raise InputError(f"--target {settings.target:,.0f} is not above the largest of --sizes: nothing is predicted")
    if len(set(settings.rate_factors)) < 3 or min(settings.rate_factors) <= 0:
        raise InputError("--learning-rates: at least three different multiples of the rule's rate, all above 0")
    for name, value in (("seeds", settings.seeds), ("target-seeds", settings.target_seeds)):
        if value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")


def sweep_runs(settings: LadderSettings, ladder: Ladder) -> list[SmallRun]:
    """All runs below the target, the small ones first."""
    return [
        _run(settings, rung, rate=rung.usual_rate * factor, seed=settings.seed + number)
        for rung in ladder.rungs
        for factor in settings.rate_factors
        for number in range(settings.seeds)
    ]


def target_runs(settings: LadderSettings, ladder: Ladder, *, rate: float) -> list[SmallRun]:
    """The target's runs, under seeds that no run of the sweep had."""
    first = settings.seed + settings.seeds
    return [
        _run(settings, ladder.target, rate=rate, seed=first + number, name="target")
        for number in range(settings.target_seeds)
    ]


def _run(settings: LadderSettings, rung: Rung, *, rate: float, seed: int, name: str = "size") -> SmallRun:
    rate = float(f"{rate:.4g}")
    name = f"{name}-{rung.parameters}-rate-{rate:g}-seed-{seed}"
    return SmallRun(
        name=name,
        command=train_command(
            settings.recipe,
            [*settings.fields, *fields_of(rung), f"optimizer.learning_rate={rate:g}"],
            folder=settings.folder / "runs" / name,
            seed=seed,
            processes=settings.processes,
        ),
        facts={"parameters": rung.parameters, "tokens": rung.tokens, "learning_rate": rate, "seed": seed},
    )


def fields_of(rung: Rung) -> list[str]:
    """Fields that make a recipe this rung."""
    shape = ("layers", "hidden", "feed_forward", "heads", "key_value_groups", "head_size")
    return [
        *(f"model.{name}={getattr(rung.model, name)}" for name in shape),
        f"training.steps={rung.steps}",
        f"batch.global_batch={rung.global_batch}",
        f"batch.micro_batch={rung.micro_batch}",
        f"optimizer.warmup_steps={rung.warmup_steps}",
    ]


def sweep_of(ladder: Ladder, records: Sequence[Mapping[str, Any]]) -> Sweep:
    """Results of the sweep as arrays."""
    sizes = [rung.parameters for rung in ladder.rungs]
    return Sweep(
        parameters_Z=np.array(sizes, dtype=np.float64),
        size_R=np.array([sizes.index(record["parameters"]) for record in records]),
        log_rate_R=np.log([record["learning_rate"] for record in records]),
        loss_R=np.array([record[LOSS] for record in records], dtype=np.float64),
    )


def flops_of(rung: Rung, base: RunConfig) -> float:
    """FLOPs of one run of a rung, attention counted causal."""
    return rung.tokens * flops_per_token(rung.model, sequence_length=base.batch.sequence_length)

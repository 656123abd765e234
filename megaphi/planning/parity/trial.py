"""Training the twin: once alone, to be compared with, then under every layout, comparing what each rank holds.

Gradients are read from AdamW's first moment after the first update, where every replica has its own piece of them,
reduced and clipped: exp_avg = (1 - beta1) g. Weights are compared on every rank that holds them, so that one replica
that differs is found, and named. In bf16 they are the fp32 weights that the ranks update: near 1 the numbers of bf16
lie further apart than a few steps move. A replica that fails to gather them shows in the next step's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from megaphi.engine.model.optimizer import state_pieces
from megaphi.engine.model.training_model import TrainingModel, build_training_model, check_machine, whole_parameters
from megaphi.engine.own_objective import load_objective
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.training.train_step import train_step
from megaphi.model.initialize import ParameterShare, parameter_shares
from megaphi.parallel.exchange import gathered
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.rendezvous.differences import Facts
from megaphi.parallel.world import World, start_world, world_of_one
from megaphi.planning.parity.comparison import Differences
from megaphi.planning.parity.made_batches import step_batches
from megaphi.planning.parity.twin import for_layout
from megaphi.stages.pretrain import Pretrain

Sums = dict[str, tuple[float, float, int]]
"""Name of a tensor -> (squared differences, squared reference, elements) of the part that this rank has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alone:
    """The twin in one process: whole tensors by name."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """After the first step, clipped."""
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    """Weights before the first and after the last step."""


def train_alone(twin: RunConfig) -> Alone:
    """Train in a world of this process alone; called before it joins its job."""
    alone = Alone()
    with world_of_one(seed=twin.seed, deterministic=twin.deterministic) as world:
        model = _build(for_layout(twin, ParallelLayout(), world_size=1), world)
        alone.before.update(_weights(model))

        def keep_gradients() -> None:
            for share, _, _, gradient in _owned_gradients(model):
                alone.gradients[share.name] = gradient.reshape(share.shape).clone()

        _train(model, alone, after_first=keep_gradients)
        alone.after.update(_weights(model))
    return alone


def differences_alone(twin: RunConfig, alone: Alone) -> Differences:
    """Differences of one process in the twin's own precision from `alone`, which is in fp32."""
    with world_of_one(seed=twin.seed, deterministic=twin.deterministic) as world:
        return _differences(for_layout(twin, ParallelLayout(), world_size=1), world, alone)


def differences_of(twin: RunConfig, layout: ParallelLayout, alone: Alone, *, facts: Callable[[], Facts]) -> Differences:
    """Differences of a layout from one process. Collective; joins the job on the first call."""
    world = start_world(layout, seed=twin.seed, facts=facts, patience=twin.patience, deterministic=twin.deterministic)
    return _differences(replace(twin, layout=world.layout), world, alone)


def in_fp32(twin: RunConfig) -> RunConfig:
    return replace(twin, precision=NumericPrecision(parameters="float32"))


def _differences(run: RunConfig, world: World, alone: Alone) -> Differences:
    model, trained, first = _build(run, world), Alone(), {}
    _train(model, trained, after_first=lambda: first.update(_gradient_sums(model, alone)))
    gradients = gathered(first, Sums)
    weights = gathered(_weight_sums(model, alone), Sums)
    return Differences(
        losses=_relative(trained.losses, alone.losses),
        norms=_relative(trained.norms, alone.norms),
        gradients={name: _over_ranks(name, gradients, whole.numel()) for name, whole in alone.gradients.items()},
        weights={name: _worst_rank(name, weights) for name in alone.after},
    )


def _build(run: RunConfig, world: World) -> TrainingModel:
    check_machine(run, world)
    return build_training_model(run, world)


def _train(model: TrainingModel, curves: Alone, *, after_first: Callable[[], object]) -> None:
    run, world = model.run, model.world
    assert isinstance(run.task, Pretrain)
    objective = load_objective(run.task.objective)
    for step in range(run.training.steps):
        batches = step_batches(run, step=step, replica=world.replica, replicas=world.replicas)
        result = train_step(model, batches, learning_rate=run.optimizer.learning_rate, objective=objective)
        curves.losses.append(result.loss)
        curves.norms.append(result.gradient_norm)
        if step == 0:
            after_first()


def _shares(model: TrainingModel) -> Iterator[ParameterShare]:
    for module in model.modules:
        yield from parameter_shares(module)


def _weights(model: TrainingModel) -> dict[str, Tensor]:
    """Whole weights of a model in one process."""
    with whole_parameters(model):
        return {share.name: _box_of(share).reshape(share.shape).clone() for share in _shares(model)}


def _box_of(share: ParameterShare) -> Tensor:
    return share.parameter.detach().view(-1)[: share.numel].float()


def _owned_gradients(model: TrainingModel) -> Iterator[tuple[ParameterShare, int, int, Tensor]]:
    """(share, start, end, gradient) of the part of each share that this rank updates, counted in its box."""
    for share in _shares(model):
        pieces = state_pieces(model.optimizer, share.parameter)
        if pieces is None or not share.is_first_copy:
            continue
        start, end = share.without_padding(pieces.start, pieces.end)
        if start < end:
            gradient = pieces.tensors["exp_avg"][: end - start].float() / (1 - model.run.optimizer.beta1)
            yield share, start, end, gradient


def _same_part(share: ParameterShare, whole: Tensor) -> Tensor:
    """The part of a whole tensor that is this share's box, flattened."""
    box = tuple(slice(start, start + size) for start, size in zip(share.offset, share.shape, strict=True))
    return whole.reshape(share.whole_shape)[box].reshape(-1)


def _gradient_sums(model: TrainingModel, alone: Alone) -> Sums:
    sums: Sums = {}
    for share, start, end, gradient in _owned_gradients(model):
        expected = _same_part(share, alone.gradients[share.name])[start:end]
        sums[share.name] = (_square(gradient - expected), _square(expected), end - start)
    return sums


def _weight_sums(model: TrainingModel, alone: Alone) -> Sums:
    """Squared differences of the weights that this rank holds; the reference is their change in training."""
    sums: Sums = {}
    with whole_parameters(model):
        for share, start, end, found in _held_weights(model):
            expected = _same_part(share, alone.after[share.name])[start:end]
            change = expected - _same_part(share, alone.before[share.name])[start:end]
            sums[share.name] = (_square(found - expected), _square(change), end - start)
    return sums


def _held_weights(model: TrainingModel) -> Iterator[tuple[ParameterShare, int, int, Tensor]]:
    """(share, start, end, weights): whole shares in fp32, else the fp32 weights that this rank updates."""
    for share in _shares(model):
        if share.parameter.dtype == torch.float32:
            yield share, 0, share.numel, _box_of(share)
        elif (pieces := state_pieces(model.optimizer, share.parameter)) is not None:
            start, end = share.without_padding(pieces.start, pieces.end)
            if start < end:
                yield share, start, end, pieces.tensors["main"][: end - start]


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())


def _relative(found: list[float], expected: list[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True)]


def _over_ranks(name: str, ranks: list[Sums], elements: int) -> float:
    """Relative difference of a whole tensor; infinite if the ranks do not hold each of its elements once."""
    parts = [sums[name] for sums in ranks if name in sums]
    if sum(part[2] for part in parts) != elements:
        return math.inf
    return math.sqrt(sum(part[0] for part in parts) / max(sum(part[1] for part in parts), 1e-300))


def _worst_rank(name: str, ranks: list[Sums]) -> tuple[float, int]:
    """(largest relative difference among the ranks that hold a part, that rank)."""
    found = [
        (math.sqrt(sums[name][0] / max(sums[name][1], 1e-300)), rank) for rank, sums in enumerate(ranks) if name in sums
    ]
    return max(((math.inf if math.isnan(one) else one, rank) for one, rank in found), default=(math.inf, 0))

"""The choices that a plan has for a run on so many devices, and the rules that refuse one before it is priced.

Axes: tensor ranks (within a node), pipeline stages, context ranks, chunks of layers per stage, an even or a balanced
split of the layers, the micro-batch, and what is recomputed. Replicas are what the devices leave. The rules are those
of `run_config.check`; what they refuse is counted, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

from megaphi.engine.run_config import RunConfig
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.step.device import Device

Recompute = Literal["none", "selective", "full"]
Split = Literal["even", "balanced"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
SPLITS: tuple[Split, ...] = ("even", "balanced")
MICRO_BATCHES = (1, 2, 4, 8)
MOST_CONTEXT = 8
"""Context ranks: beyond a node's devices, keys and values would travel between nodes in every layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanQuestion:
    """A run to be planned, and what it may use."""

    run: RunConfig
    devices: int
    device: Device
    memory_bytes: float
    """Memory of one device, for everything."""
    other_batches: frozenset[int] = frozenset()
    """Global batches of other stages of the run, where it grows: a plan works for all, and is timed at the run's."""
    fixed: frozenset[str] = frozenset()
    """Axes that the user has decided: `layout.tensor` and so on; the run's value is the only choice."""


class Ranks(NamedTuple):
    """Ranks of each kind; the replicas follow."""

    tensor: int
    pipeline: int
    context: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanChoice:
    """One way to run it."""

    layout: ParallelLayout
    """Complete."""
    micro_batch: int
    recompute: Recompute

    def of(self, run: RunConfig) -> RunConfig:
        """The run, decided so."""
        return replace(
            run,
            layout=self.layout,
            recompute=self.recompute,
            batch=replace(run.batch, micro_batch=self.micro_batch),
        )

    def __str__(self) -> str:
        layout = self.layout
        named = (("TP", layout.tensor), ("PP", layout.pipeline), ("VPP", layout.virtual_pipeline))
        words = [f"{name} {count}" for name, count in (*named, ("CP", layout.context)) if count > 1 or name in "TPPP"]
        return " x ".join((*words, f"DP {layout.data}"))


class Rule(NamedTuple):
    """A rule that refuses something, with what it refuses in numbers."""

    reason: str
    example: str


class Refused(NamedTuple):
    """Choices that a rule refuses together."""

    reason: str
    choices: int
    example: str

    @classmethod
    def by(cls, rule: Rule, choices: int) -> Refused:
        return cls(rule.reason, choices, rule.example)


class Axes(NamedTuple):
    """Values of every axis."""

    tensor: tuple[int, ...]
    pipeline: tuple[int, ...]
    context: tuple[int, ...]
    micro_batch: tuple[int, ...]
    recompute: tuple[Recompute, ...]


def axes_of(question: PlanQuestion) -> Axes:
    """The values that are tried."""
    run, devices = question.run, question.devices
    divisors = [number for number in range(1, devices + 1) if devices % number == 0]

    def values(field: str, own: int, usual: tuple[int, ...]) -> tuple[int, ...]:
        return (own,) if field in question.fixed else usual

    within_a_node = tuple(number for number in divisors if number <= question.device.node_devices)
    recompute = (run.recompute,) if "recompute" in question.fixed else RECOMPUTE
    return Axes(
        tensor=values("layout.tensor", run.layout.tensor, within_a_node),
        pipeline=values("layout.pipeline", run.layout.pipeline, tuple(divisors)),
        context=values("layout.context", run.layout.context, tuple(n for n in divisors if n <= MOST_CONTEXT)),
        micro_batch=values("batch.micro_batch", run.batch.micro_batch, MICRO_BATCHES),
        recompute=recompute,
    )


def size_of(question: PlanQuestion) -> int:
    """Number of choices, refused ones among them."""
    axes = axes_of(question)
    inner = len(axes.micro_batch) * len(axes.recompute)
    cuts = sum(len(_chunks(question, pipeline)) * len(SPLITS) for pipeline in axes.pipeline)
    return len(axes.tensor) * len(axes.context) * cuts * inner


def choices_of(question: PlanQuestion, *, head_layers: float) -> Iterator[PlanChoice | Refused]:
    """Every choice that the rules let pass, and the others by the rule that refuses them.

    Args:
        head_layers: work of the end of the model, in layers.
    """
    axes = axes_of(question)
    inner = len(axes.micro_batch) * len(axes.recompute)
    for ranks in map(Ranks, *zip(*product(axes.tensor, axes.pipeline, axes.context), strict=True)):
        chunks = _chunks(question, ranks.pipeline)
        if why := _why_no_ranks(question, ranks):
            yield Refused.by(why, len(chunks) * len(SPLITS) * inner)
            continue
        for virtual, split in product(chunks, SPLITS):
            found = _cut(question, ranks, virtual, split, head_layers)
            if isinstance(found, Rule):
                yield Refused.by(found, inner)
                continue
            for micro_batch in axes.micro_batch:
                if why := _why_no_batch(question, found, micro_batch):
                    yield Refused.by(why, len(axes.recompute))
                    continue
                for recompute in axes.recompute:
                    yield PlanChoice(layout=found, micro_batch=micro_batch, recompute=recompute)


def _chunks(question: PlanQuestion, pipeline: int) -> tuple[int, ...]:
    if "layout.virtual_pipeline" in question.fixed:
        return (question.run.layout.virtual_pipeline,)
    most = question.run.model.layers // pipeline if pipeline > 1 else 1
    return tuple(range(1, max(1, most) + 1))


def _why_no_ranks(question: PlanQuestion, ranks: Ranks) -> Rule | None:
    """The rule that refuses these ranks for every cut and batch, with an example."""
    model, length = question.run.model, question.run.batch.sequence_length
    together = math.prod(ranks)
    if question.devices % together:
        return Rule("ranks do not divide the devices", f"{together} ranks, {question.devices} devices")
    if ranks.pipeline > model.layers:
        return Rule("more stages than layers", f"PP {ranks.pipeline}, {model.layers} layers")
    for what, size in (("heads", model.heads), ("feed-forward width", model.feed_forward)):
        if size % ranks.tensor:
            return Rule(f"TP does not divide the {what}", f"TP {ranks.tensor}, {size}")
    if model.kernels == "transformer_engine" and model.key_value_groups % ranks.tensor:
        return Rule("TP does not divide the key-value groups", f"TP {ranks.tensor}, {model.key_value_groups}")
    ways = ranks.tensor * ranks.context if ranks.tensor > 1 else 1
    ways = math.lcm(ways, 2 * ranks.context if ranks.context > 1 else 1)
    if length % ways:
        return Rule("ranks do not divide the sequence", f"TP {ranks.tensor} x CP {ranks.context}, {length} tokens")
    return None


def _cut(question: PlanQuestion, ranks: Ranks, virtual: int, split: Split, head_layers: float) -> ParallelLayout | Rule:
    """The layout, or the rule that refuses this cut of the layers, with an example."""
    layers, chunks = question.run.model.layers, ranks.pipeline * virtual
    if virtual > 1 and ranks.pipeline == 1:
        return Rule("chunks need stages", f"VPP {virtual} at PP 1")
    if chunks > layers:
        return Rule("more chunks than layers", f"PP {ranks.pipeline} x VPP {virtual}, {layers} layers")
    stage_layers: tuple[int, ...] = ()
    if split == "balanced":
        stage_layers = balanced(layers, stages=ranks.pipeline, chunks=virtual, head_layers=head_layers)
        if len({*stage_layers}) == 1:
            return Rule("the balanced split is the even one", f"PP {ranks.pipeline} x VPP {virtual}")
    elif layers % chunks:
        return Rule("chunks do not divide the layers", f"PP {ranks.pipeline} x VPP {virtual}, {layers} layers")
    return ParallelLayout(
        tensor=ranks.tensor,
        pipeline=ranks.pipeline,
        virtual_pipeline=virtual,
        stage_layers=stage_layers,
        context=ranks.context,
        data=question.devices // math.prod(ranks),
        sequence_parallel=ranks.tensor > 1,
    )


def _why_no_batch(question: PlanQuestion, layout: ParallelLayout, micro_batch: int) -> Rule | None:
    """The rule that refuses this micro-batch for any batch of the run, with an example."""
    replicas = layout.data or 1
    for batch in (question.run.batch.global_batch, *sorted(question.other_batches)):
        micro_batches, rest = divmod(batch, micro_batch * replicas)
        if rest:
            return Rule("replicas do not divide the batch", f"{batch} sequences, {replicas} replicas of {micro_batch}")
        if micro_batches < layout.least_micro_batches:
            return Rule("too few micro-batches to interleave", f"{micro_batches} at PP {layout.pipeline}")
    return None


def balanced(layers: int, *, stages: int, chunks: int, head_layers: float) -> tuple[int, ...]:
    """Layers of every chunk, where the last stage has as many fewer as the end of the model weighs.

    The busiest stage counts; what is over goes to the first stages. A stage's chunks are alike up to one layer: the
    last stage's last chunk, under the head, is a smaller one, other stages' last chunks are larger ones.
    """
    least = chunks  # a layer for every chunk
    most = layers - least * (stages - 1)

    def busiest(last: int) -> float:
        others = -(-(layers - last) // (stages - 1)) if stages > 1 else 0
        return max(others, last + head_layers)

    last = layers if stages == 1 else min(range(least, most + 1), key=lambda count: (busiest(count), -count))
    each, over = divmod(layers - last, stages - 1) if stages > 1 else (0, 0)
    of_stage = [*(each + (stage < over) for stage in range(stages - 1)), last]
    rows = [
        sorted(((count + place) // chunks for place in range(chunks)), reverse=stage == stages - 1)
        for stage, count in enumerate(of_stage)
    ]
    return tuple(rows[stage][chunk] for chunk in range(chunks) for stage in range(stages))

"""Figures of a run: what every step took in, let through and rejected, how long it took, and samples of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from megaphi.curation.pipeline.counts import Amount, StepCounts
from megaphi.curation.pipeline.plan import CurationPlan
from megaphi.curation.pipeline.run import all_counts
from megaphi.curation.pipeline.samples import KEPT, DocumentSample, chosen
from megaphi.curation.pipeline.shard import BETWEEN, shard_samples


@dataclass(frozen=True, slots=True)
class RejectedFor:
    """Documents that a step rejected for one reason."""

    reason: str
    count: int
    samples: list[DocumentSample]


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """A step of the funnel."""

    counts: StepCounts
    label: str
    """The name of a step that asks a model, as its kind of synthetic data; "" for others."""
    settings: str
    rejected: list[RejectedFor]
    """The most frequent reason first."""
    share_of_read: float
    """Documents that come out, of those that were read; above 1 if steps make more of them."""

    @property
    def name(self) -> str:
        """The step's name in the recipe, with its label where that says more."""
        name = self.counts.name
        return name if self.label in name else f"{name}: {self.label}"

    @property
    def megabytes_per_second(self) -> float | None:
        """Characters and bytes that went in, by the seconds that the step took in all processes together."""
        return self.counts.came.size / self.counts.seconds / 1e6 if self.counts.seconds else None


@dataclass(frozen=True, slots=True)
class Funnel:
    """A finished run."""

    recipe: str
    steps: list[FunnelStep]
    between: StepCounts
    """The time that documents took to and from the disk between stages."""
    kept: list[DocumentSample]
    shards: int
    input_bytes: int

    @property
    def seconds(self) -> float:
        """Time of all processes together."""
        return sum(step.counts.seconds for step in self.steps) + self.between.seconds


def funnel_of(plan: CurationPlan) -> Funnel:
    """The figures of a finished run, read from its shards."""
    counts = all_counts(plan)
    samples = chosen(_samples(plan), plan.curation.samples, seed=plan.curation.seed)
    labels = {name: str(getattr(step, "label", "")) for name, step in zip(plan.names, plan.curation.steps, strict=True)}
    read = max(1, counts[0].came.documents) if counts else 1
    steps = [
        FunnelStep(
            counts=one,
            label=labels.get(one.name, ""),
            settings=_settings(plan, one.name),
            rejected=_reasons(one, samples),
            share_of_read=one.left.documents / read,
        )
        for one in counts
        if one.name != BETWEEN or one.rejected
    ]
    between = next((one for one in counts if one.name == BETWEEN), StepCounts(BETWEEN, Amount(), Amount()))
    return Funnel(
        recipe=plan.curation.recipe,
        steps=steps,
        between=between,
        kept=samples.get(("", KEPT), []),
        shards=len(plan.stages[0].jobs),
        input_bytes=plan.input_bytes,
    )


def _samples(plan: CurationPlan) -> Iterator[DocumentSample]:
    for stage in plan.stages:
        for job in stage.jobs:
            yield from shard_samples(job.output)


def _reasons(counts: StepCounts, samples: dict[tuple[str, str], list[DocumentSample]]) -> list[RejectedFor]:
    by_count = sorted(counts.rejected.items(), key=lambda item: (-item[1], item[0]))
    return [RejectedFor(reason, count, samples.get((counts.name, reason), [])) for reason, count in by_count]


def _settings(plan: CurationPlan, name: str) -> str:
    """The settings of a step, as a person would write them."""
    parts = {"read": plan.meaning["read"], **plan.meaning["steps"], "write": plan.meaning["write"]}
    if name not in parts:
        return ""
    found = parts[name]
    return f"{found['class']}({', '.join(f'{field}={value}' for field, value in found['settings'].items())})"

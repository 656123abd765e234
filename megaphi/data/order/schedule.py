"""Boundaries of the stages of a run, in steps and samples: pure arithmetic on the mixture and the batch shape.

A stage lasts whole steps. Its tokens are rounded up to them, so a plan of stages never ends before the tokens it names;
the last stage may leave its length open and takes what is left of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaphi.data.order.blend import ENDLESS
from megaphi.data.order.mixture import Mixture, Source, Stage
from megaphi.errors import InputError, did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpan:
    """One stage, laid out: steps [first_step, end_step), samples [first_sample, end_sample) of the run."""

    name: str
    sources: tuple[str, ...]
    """Names of the sources that take part, in the order of task.mixture.sources."""
    weights: tuple[float, ...]
    sequence_length: int
    global_batch: int
    micro_batch: int
    first_step: int
    end_step: int
    first_sample: int
    is_whole_run: bool = False
    """The data has no stages, and this stands for all of it."""

    @property
    def samples(self) -> int:
        return (self.end_step - self.first_step) * self.global_batch

    @property
    def end_sample(self) -> int:
        return self.first_sample + self.samples

    @property
    def tokens(self) -> int:
        return self.samples * self.sequence_length


def lay_out_stages(
    mixture: Mixture, *, steps: int, sequence_length: int, global_batch: int, micro_batch: int = 1
) -> tuple[StageSpan, ...]:
    """The stages of a run of `steps` steps; a mixture without stages is one that lasts the whole run.

    Raises:
        InputError: a stage is empty, names an unknown source, or the stages do not fill the run exactly.
    """
    spans: list[StageSpan] = []
    stages = mixture.stages or (Stage(name="all"),)
    step = sample = 0
    for place, stage in enumerate(stages):
        batch = stage.global_batch or global_batch
        length = stage.sequence_length or sequence_length
        end = _end_of(stage, step, steps, tokens_per_step=batch * length, is_last=place == len(stages) - 1)
        names, weights = _shares_of(stage, mixture)
        spans.append(
            StageSpan(
                name=stage.name,
                sources=names,
                weights=weights,
                sequence_length=length,
                global_batch=batch,
                micro_batch=stage.micro_batch or micro_batch,
                first_step=step,
                end_step=end,
                first_sample=sample,
                is_whole_run=not mixture.stages,
            )
        )
        step, sample = end, spans[-1].end_sample
    if step != steps:
        raise InputError(
            f"the stages of the mixture last {step:,} steps, but training.steps={steps:,}: set training.steps={step},"
            f" or leave task.mixture.stages.{stages[-1].name}.tokens open (none) to let the last stage fill the run"
        )
    return tuple(spans)


def single_stage(sources: Sequence[Source], *, sequence_length: int, samples: int | None = None) -> StageSpan:
    """All sources with their own weights in steps of one sample, for `samples` of them or without end."""
    return StageSpan(
        name="all",
        sources=tuple(source.name for source in sources),
        weights=tuple(source.weight for source in sources),
        sequence_length=sequence_length,
        global_batch=1,
        micro_batch=1,
        first_step=0,
        end_step=ENDLESS if samples is None else samples,
        first_sample=0,
        is_whole_run=True,
    )


def _end_of(stage: Stage, first_step: int, steps: int, *, tokens_per_step: int, is_last: bool) -> int:
    where = f"task.mixture.stages.{stage.name}.tokens"
    if stage.tokens is None:
        if not is_last:
            raise InputError(
                f"{where} is open, but only the last stage may last to the end of the run: give its tokens"
            )
        if steps <= first_step:
            raise InputError(
                f"no step is left for stage {stage.name!r}: it would begin at step {first_step:,} of {steps:,}"
            )
        return steps
    return first_step + -(-stage.tokens // tokens_per_step)


def _shares_of(stage: Stage, mixture: Mixture) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Names and weights of the sources of a stage, in the order of the mixture's sources."""
    weights = {share.name: share.weight for share in stage.shares}
    known = [source.name for source in mixture.sources]
    for share in stage.shares:
        if share.name not in known:
            raise InputError(
                f"task.mixture.stages.{stage.name}.shares names {share.name!r}, which is no source of the mixture."
                f"{did_you_mean(share.name, known)} Sources: {', '.join(known)}"
            )
    if len(weights) < len(stage.shares):
        raise InputError(f"task.mixture.stages.{stage.name}.shares names a source twice")
    if not stage.shares:
        weights = {source.name: source.weight for source in mixture.sources}
    chosen = [name for name in known if name in weights]
    return tuple(chosen), tuple(weights[name] for name in chosen)

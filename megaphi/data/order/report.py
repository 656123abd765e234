"""A preview of what a run reads: tokens, shares and epochs of every source, by stage and over the whole run.

`report_mixture` lays the stages out in whole steps, asks the blend of each for its exact counts, and divides by the
unique tokens of each source (`source_content.py`). `repeats` finds the sources that are repeated too often, `shortages`
those that hold less than their recipe expects. Nothing is rounded before it is printed: counts are those of the keyed
order, sample by sample. A source continues in a stage where the stage before stopped, so epochs add up over stages, and
an epoch that begins at the end of one is finished in the next that reads the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from megaphi.data.order.blend import Blend
from megaphi.data.order.mixture import Mixture, Source, check_sources
from megaphi.data.order.schedule import StageSpan, lay_out_stages
from megaphi.data.order.source_content import DatasetContent, SourceContent, source_content
from megaphi.errors import InputError

TOLERATED = 0.1
"""Share by which a source may hold less than its recipe expects without being named."""
GOOD_EPOCHS = 4.0
"""Up to about this many epochs, repeated data is as good as new data (Muennighoff et al. 2023, arXiv 2305.16264)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Tokens that one stage reads from one source."""

    name: str
    share: float
    """Share of the stage's samples."""
    samples: int
    tokens: int
    epochs: float | None
    """Times through the source in this stage; None if its size is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageReport:
    """One stage of the run."""

    name: str
    first_step: int
    steps: int
    tokens: int
    sequence_length: int
    global_batch: int
    sources: tuple[Reading, ...]
    """Those that take part, in the order of task.mixture.sources."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceReport:
    """One source over the whole run."""

    name: str
    share: float
    """Share of the run's tokens."""
    tokens: int
    held_tokens: int | None
    """Tokens of the source, copies of documents included."""
    unique_tokens: int | None
    """The same, each document once."""
    counted: bool
    """Both are from the files; otherwise the recipe's value."""
    expected_tokens: int | None
    """Unique tokens by the recipe."""
    datasets: tuple[DatasetContent, ...]
    """Its files, where they are there."""
    epochs: float | None
    """Times that a unique token is read by the end of the run, on average."""
    epochs_begun: tuple[int, ...] | None
    """Number of times each stage starts at the beginning of the source, the first time included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureReport:
    """Tokens that a run reads, by source and stage."""

    steps: int
    tokens: int
    stages: tuple[StageReport, ...]
    sources: tuple[SourceReport, ...]


class Shortage(NamedTuple):
    """A source whose files make a run read it more often than its recipe expects."""

    source: str
    epochs: float
    expected_epochs: float
    unique_tokens: int
    expected_tokens: int


class Repeat(NamedTuple):
    """A source that is read more often than a limit: how often in the end, and the stage that exceeds the limit."""

    source: str
    epochs: float
    stage: str


def report_mixture(
    mixture: Mixture,
    *,
    steps: int,
    sequence_length: int,
    global_batch: int,
    sizes: Mapping[str, SourceContent] | None = None,
) -> MixtureReport:
    """Work out what `steps` steps read from every source.

    Args:
        sequence_length, global_batch: of the stages that name none of their own.
        sizes: by source name; by default `source_content` of every source, which looks at the files.

    Raises:
        InputError: the mixture or its stages are invalid, or a source's files are corrupted.
    """
    check_sources(mixture.sources)
    spans = lay_out_stages(mixture, steps=steps, sequence_length=sequence_length, global_batch=global_batch)
    if sizes is None:
        longest = {name: span.sequence_length for span in sorted(spans, key=_length) for name in span.sources}
        sizes = {
            source.name: source_content(source, sequence_length=longest.get(source.name, sequence_length))
            for source in mixture.sources
        }
    found = sizes
    stages = tuple(_stage(span, found) for span in spans)
    tokens = sum(stage.tokens for stage in stages)
    sources = tuple(_source(source, found[source.name], stages, of=tokens) for source in mixture.sources)
    return MixtureReport(steps=steps, tokens=tokens, stages=stages, sources=sources)


def _length(span: StageSpan) -> int:
    return span.sequence_length


def running_tokens(stages: Iterable[StageReport], source: str) -> list[int]:
    """Tokens of a source that have been read by the end of each stage."""
    return list(accumulate(sum(read.tokens for read in stage.sources if read.name == source) for stage in stages))


def repeats(report: MixtureReport, *, above: float = GOOD_EPOCHS) -> tuple[Repeat, ...]:
    """Sources that are read more than `above` times."""
    found = []
    for source in report.sources:
        if source.unique_tokens and source.epochs is not None and source.epochs > above:
            read = zip(report.stages, running_tokens(report.stages, source.name), strict=True)
            crossing = next(stage.name for stage, tokens in read if tokens / source.unique_tokens > above)
            found.append(Repeat(source.name, source.epochs, crossing))
    return tuple(found)


def shortages(report: MixtureReport) -> tuple[Shortage, ...]:
    """Sources of which the files hold so few unique tokens that a run reads them more often than the recipe expects."""
    return tuple(
        Shortage(
            source=one.name,
            epochs=one.epochs,
            expected_epochs=one.tokens / one.expected_tokens,
            unique_tokens=one.unique_tokens,
            expected_tokens=one.expected_tokens,
        )
        for one in report.sources
        if one.counted and one.epochs and one.unique_tokens and one.expected_tokens
        if one.unique_tokens < one.expected_tokens / (1 + TOLERATED)
    )


def _stage(span: StageSpan, sizes: Mapping[str, SourceContent]) -> StageReport:
    for what, value in (("sequence_length", span.sequence_length), ("global_batch", span.global_batch)):
        if value < 1:
            raise InputError(f"{what}={value} in stage {span.name!r} of the mixture: must be at least 1")
    blend = Blend(span.weights, total_samples=span.samples)
    counts = blend.counts(span.samples).tolist()
    readings = [
        Reading(
            name=name,
            share=float(share),
            samples=samples,
            tokens=samples * span.sequence_length,
            epochs=_epochs(samples * span.sequence_length, sizes[name]),
        )
        for name, share, samples in zip(span.sources, blend.shares, counts, strict=True)
    ]
    return StageReport(
        name=span.name,
        first_step=span.first_step,
        steps=span.end_step - span.first_step,
        tokens=span.tokens,
        sequence_length=span.sequence_length,
        global_batch=span.global_batch,
        sources=tuple(readings),
    )


def _source(source: Source, size: SourceContent, stages: tuple[StageReport, ...], *, of: int) -> SourceReport:
    read = running_tokens(stages, source.name)
    begun = None
    if size.tokens:
        begun_by = [-(-tokens // size.tokens) for tokens in (0, *read)]
        begun = tuple(after - before for before, after in pairwise(begun_by))
    return SourceReport(
        name=source.name,
        share=read[-1] / of,
        tokens=read[-1],
        held_tokens=size.tokens,
        unique_tokens=size.unique_tokens,
        counted=size.counted,
        expected_tokens=source.unique_tokens,
        datasets=size.datasets,
        epochs=_epochs(read[-1], size),
        epochs_begun=begun,
    )


def _epochs(tokens: int, size: SourceContent) -> float | None:
    return tokens / size.unique_tokens if size.unique_tokens else None

"""A preview of what a run reads: tokens, shares and epochs of every source, by stage and over the whole run.

`report_mixture` lays the stages out in whole steps, asks the blend of each for its exact counts, and divides by what
each source holds: its files where they are there (`unique_tokens`), else the number its recipe expects. `repeats` finds
the sources that are repeated too often. Nothing is rounded before it is printed: counts are those of the keyed order,
sample by sample. A source continues in a stage where the stage before stopped, so epochs add up over stages, and an
epoch that begins at the end of one is finished in the next that reads the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from megaphi.data.order.blend import Blend
from megaphi.data.order.mixture import Mixture, Source, check_sources
from megaphi.data.order.schedule import StageSpan, lay_out_stages
from megaphi.errors import InputError

GOOD_EPOCHS = 4.0
"""Up to about this many epochs, repeated data is as good as new data (Muennighoff et al. 2023, arXiv 2305.16264)."""


class UniqueTokens(NamedTuple):
    """Size of a source: `tokens` is None where neither files nor recipe give it."""

    tokens: int | None
    counted: bool
    """From its files; otherwise the recipe's value."""


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
    unique_tokens: int | None
    counted: bool
    """unique_tokens is from the files; otherwise the recipe's value."""
    epochs: float | None
    """Times through the source by the end of the run."""
    epochs_begun: tuple[int, ...] | None
    """Number of times each stage starts at the beginning of the source, the first time included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureReport:
    """Tokens that a run reads, by source and stage."""

    steps: int
    tokens: int
    stages: tuple[StageReport, ...]
    sources: tuple[SourceReport, ...]


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
    unique: Mapping[str, UniqueTokens] | None = None,
) -> MixtureReport:
    """Work out what `steps` steps read from every source.

    Args:
        sequence_length, global_batch: of the stages that name none of their own.
        unique: sizes by source name; by default `unique_tokens` of every source, which looks at the files.

    Raises:
        InputError: the mixture or its stages are invalid, or a source's files are corrupted.
    """
    check_sources(mixture.sources)
    spans = lay_out_stages(mixture, steps=steps, sequence_length=sequence_length, global_batch=global_batch)
    if unique is None:
        longest = {name: span.sequence_length for span in sorted(spans, key=_length) for name in span.sources}
        unique = {
            source.name: unique_tokens(source, sequence_length=longest.get(source.name, sequence_length))
            for source in mixture.sources
        }
    sizes = unique
    stages = tuple(_stage(span, sizes) for span in spans)
    tokens = sum(stage.tokens for stage in stages)
    sources = tuple(_source(source.name, sizes[source.name], stages, of=tokens) for source in mixture.sources)
    return MixtureReport(steps=steps, tokens=tokens, stages=stages, sources=sources)


def _length(span: StageSpan) -> int:
    return span.sequence_length


def unique_tokens(source: Source, *, sequence_length: int) -> UniqueTokens:
    """Tokens that a source holds: counted in its files if all are there, else the number that its recipe expects.

    Of a source that is cut from documents, the tokens of an epoch: its windows of `sequence_length`, padding included.
    """
    from megaphi.data.order.document_windows import document_windows
    from megaphi.data.storage.files.remote import RemoteStore
    from megaphi.data.storage.files.token_files import is_url
    from megaphi.data.storage.formats.dataset_formats import is_there, open_dataset
    from megaphi.data.storage.formats.token_dataset import TokenLayout
    from megaphi.data.storage.source_paths import find_datasets
    from megaphi.data.storage.streams import TokenStream

    listed = []
    if not any(map(is_url, source.paths)):
        with suppress(InputError):  # a glob that matches nothing yet
            listed = find_datasets(source.paths, source=source.name, remote=RemoteStore())
    if listed and all(is_there(dataset.path) for dataset in listed):
        layout = TokenLayout(dtype=source.dtype, document_end=source.document_end)
        datasets = [open_dataset(dataset.path, layout=layout) for dataset in listed]
        windows = document_windows(source, TokenStream(tuple(datasets), source.name))
        if windows is not None:
            return UniqueTokens(windows.of_length(sequence_length).count * sequence_length, True)
        return UniqueTokens(sum(dataset.token_count for dataset in datasets), True)
    return UniqueTokens(source.unique_tokens, False)


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


def _stage(span: StageSpan, sizes: Mapping[str, UniqueTokens]) -> StageReport:
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


def _source(name: str, size: UniqueTokens, stages: tuple[StageReport, ...], *, of: int) -> SourceReport:
    read = running_tokens(stages, name)
    begun = None
    if size.tokens:
        begun_by = [-(-tokens // size.tokens) for tokens in (0, *read)]
        begun = tuple(after - before for before, after in pairwise(begun_by))
    return SourceReport(
        name=name,
        share=read[-1] / of,
        tokens=read[-1],
        unique_tokens=size.tokens,
        counted=size.counted,
        epochs=_epochs(read[-1], size),
        epochs_begun=begun,
    )


def _epochs(tokens: int, size: UniqueTokens) -> float | None:
    return tokens / size.tokens if size.tokens else None

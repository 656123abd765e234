"""The order of a whole run: its stages in sequence, each source continuing where the stage before left it.

Every stage is a `MixtureOrder`, a pure function from sample numbers to locations; here they are concatenated. A source
is cut into blocks of B tokens, B the least common multiple of the sequence lengths of all stages that read it, and
blocks are what an epoch shuffles. So a stage of longer samples continues in the same epoch, with nothing repeated; it
may leave out only the rest of a block that a stage of shorter samples had begun, less than one sample. (A single length
is the usual case: then a block is a sample.) `Mixture.block_tokens` plans for a longer sample of a later run: blocks
are a multiple of it, too. A length that was not planned for starts a new epoch. A source that is cut from documents
(`document_windows.py`) shuffles its windows instead of blocks, and starts a new epoch at every change of length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.order.document_windows import DocumentWindows, WindowTable
from megaphi.data.order.ledger import UNREAD, Cursor, Origin, SegmentRecord
from megaphi.data.order.mixture import Split
from megaphi.data.order.sample_order import Locations, MixtureOrder
from megaphi.data.order.schedule import StageSpan
from megaphi.data.storage.reader import Runs, TokenReader
from megaphi.errors import InputError

LARGEST_BLOCK = 1 << 24
"""Tokens; a common multiple of stranger sequence lengths would leave few blocks to shuffle."""


class SourceTokens(NamedTuple):
    """A source as the order sees it."""

    name: str
    tokens: int
    windows: DocumentWindows | None = None
    """Its documents, where samples are cut from them; None where they are cut from the stream."""

    @property
    def cut(self) -> str:
        return "stream" if self.windows is None else self.windows.cut

    def tokens_for(self, sequence_length: int) -> int:
        """Tokens of the stream that samples of this length are cut from."""
        return self.tokens if self.windows is None else self.windows.nominal_tokens(sequence_length)


@dataclass(frozen=True)
class RunSegment:
    """One stage in its place in the run."""

    span: StageSpan
    order: MixtureOrder
    source_of_order: NDArray[np.int64]
    """Index in the mixture of each source that takes part."""
    cursors: tuple[Cursor, ...]
    """Position of each source at the beginning of the stage."""

    def cursors_after(self, samples: int) -> dict[str, Cursor]:
        """Positions of its sources after the first `samples` samples of the stage."""
        length = self.span.sequence_length
        return {
            name: replace(
                cursor,
                tokens=(first_sample(cursor, length) + count) * length,
                drawn=cursor.drawn + count * length,
            )
            for (name, count), cursor in zip(self.order.counts(samples).items(), self.cursors, strict=True)
        }

    @property
    def record(self) -> SegmentRecord:
        blend = self.order.blend
        return SegmentRecord(
            first_sample=self.span.first_sample,
            sequence_length=self.span.sequence_length,
            sources=self.span.sources,
            shares=tuple(str(share) for share in blend.shares),
            horizon=blend.horizon,
        )


def first_sample(cursor: Cursor, sequence_length: int) -> int:
    """Number of the next sample of this length that begins after all that was consumed."""
    return -(-cursor.tokens // sequence_length)


class RunOrder:
    """Sample number of the run -> place in the data, across stages. Pure arithmetic; threads may share it."""

    kind = "keyed"

    def __init__(
        self,
        spans: Sequence[StageSpan],
        sources: Sequence[SourceTokens],
        *,
        seed: int,
        split: Split = "training",
        origin: Origin | None = None,
        cursors: Mapping[str, Cursor] | None = None,
        block_tokens: int | None = None,
    ) -> None:
        """Count from `origin` (default: the beginning), with each source at its cursor (default: unread).

        `spans` are the stages from step 0 of the run; those before the origin are left out. `block_tokens`: see the
        mixture's field.
        """
        self.origin = origin or Origin()
        self.seed = seed
        self.split: Split = split
        self.sources = tuple(sources)
        self.block_tokens = block_tokens
        self.cursors_at_origin = {source.name: (cursors or {}).get(source.name, UNREAD) for source in sources}
        self.segments: list[RunSegment] = []
        blocks = block_lengths(spans, multiple_of=block_tokens or 1)
        standing = dict(self.cursors_at_origin)
        for span in _from_origin(spans, self.origin):
            segment = self._segment(span, standing, blocks)
            self.segments.append(segment)
            standing.update(segment.cursors_after(span.samples))
        self._first_samples = [segment.span.first_sample for segment in self.segments]

    def _segment(self, span: StageSpan, standing: Mapping[str, Cursor], blocks: Mapping[str, int]) -> RunSegment:
        index_of = {source.name: index for index, source in enumerate(self.sources)}
        members = [index_of[name] for name in span.sources]
        length = span.sequence_length
        sources = [self.sources[member] for member in members]
        tokens = [source.tokens_for(length) for source in sources]
        cursors = [
            _cut(
                standing[source.name],
                blocks[source.name] if source.windows is None else length,
                sequence_length=length,
                token_count=count,
                cut=source.cut,
            )
            for source, count in zip(sources, tokens, strict=True)
        ]
        order = MixtureOrder(
            span.sources,
            span.weights,
            token_counts=tokens,
            sequence_length=length,
            seed=self.seed,
            split=self.split,
            total_samples=span.samples,
            block_tokens=[cursor.block_tokens for cursor in cursors],
            first_samples=[first_sample(cursor, length) for cursor in cursors],
            first_epochs=[cursor.first_epoch for cursor in cursors],
        )
        return RunSegment(span, order, np.array(members, dtype=np.int64), tuple(cursors))

    @property
    def end_sample(self) -> int:
        """Samples of the whole run."""
        return self.segments[-1].span.end_sample

    def span_at(self, step: int) -> StageSpan:
        """The stage that step `step` (from 0) belongs to."""
        for segment in self.segments:
            if segment.span.first_step <= step < segment.span.end_step:
                return segment.span
        raise ValueError(f"step {step} is in no stage of this plan, which begins at step {self.origin.step}")

    def position_at(self, step: int) -> Origin:
        """Samples and tokens of the run before step `step`."""
        sample, tokens = self.origin.sample, self.origin.tokens
        for segment in self.segments:
            done = max(0, min(step, segment.span.end_step) - segment.span.first_step) * segment.span.global_batch
            sample, tokens = sample + done, tokens + done * segment.span.sequence_length
        return Origin(step=step, sample=sample, tokens=tokens)

    def locate(self, sample_numbers: ArrayLike) -> tuple[Locations, int]:
        """Places of B sample numbers (one dimension), and their sequence length, which must be one and the same."""
        numbers_B = np.asarray(sample_numbers, dtype=np.int64)
        if numbers_B.size and numbers_B.min() < self.origin.sample:
            raise ValueError(
                f"sample {numbers_B.min()} lies before sample {self.origin.sample}, where this plan begins"
            )
        segment_B = np.searchsorted(self._first_samples, numbers_B, side="right") - 1
        chosen = np.unique(segment_B).tolist() or [0]
        lengths = {self.segments[index].span.sequence_length for index in chosen}
        if len(lengths) > 1:
            raise ValueError(f"samples of several sequence lengths {sorted(lengths)} cannot be one batch")
        if len(chosen) == 1:
            return self._locate_in(self.segments[chosen[0]], numbers_B), lengths.pop()
        places = Locations(*(np.empty_like(numbers_B) for _ in range(4)))
        for index in chosen:
            members = segment_B == index
            part = self._locate_in(self.segments[index], numbers_B[members])
            for name, part_B in vars(part).items():
                getattr(places, name)[members] = part_B
        return places, lengths.pop()

    def runs(self, sample_numbers: ArrayLike, reader: TokenReader) -> tuple[Runs, int, NDArray[np.int64]]:
        """Locate the S + 1 tokens of each sample; returns them, S, and how many targets of each sample count."""
        places, length = self.locate(sample_numbers)
        targets_B = np.full(len(places.source_B), length, dtype=np.int64)
        for mine_B, table in self._cut_from_documents(places, length):
            targets_B[mine_B] = table.locate(places.window_B[mine_B])[1]
        return reader.windows(places.source_B, places.start_token_B, length + 1), length, targets_B

    def _locate_in(self, segment: RunSegment, numbers_B: NDArray[np.int64]) -> Locations:
        places = segment.order.locate(numbers_B - segment.span.first_sample)
        places = replace(places, source_B=segment.source_of_order[places.source_B])
        for mine_B, table in self._cut_from_documents(places, segment.span.sequence_length):
            places.start_token_B[mine_B] = table.locate(places.window_B[mine_B])[0]
        return places

    def _cut_from_documents(self, places: Locations, length: int) -> Iterator[tuple[NDArray[np.bool_], WindowTable]]:
        """Every source whose windows are of documents: which samples are its own, and its windows."""
        for index, source in enumerate(self.sources):
            if source.windows is not None and (mine_B := places.source_B == index).any():
                yield mine_B, source.windows.of_length(length)

    def first_cursors(self) -> dict[str, Cursor]:
        """Position of each source where it is first read by this plan; one that is not read is left out."""
        found: dict[str, Cursor] = {}
        for segment in self.segments:
            for name, cursor in zip(segment.span.sources, segment.cursors, strict=True):
                found.setdefault(name, cursor)
        return found

    def cursors(self, samples: int) -> dict[str, Cursor]:
        """Positions of all sources after the first `samples` samples of the run."""
        standing = dict(self.cursors_at_origin)
        for segment in self.segments:
            done = min(samples, segment.span.end_sample) - segment.span.first_sample
            if done > 0:
                standing.update(segment.cursors_after(done))
        return standing

    def begun(self, samples: int) -> tuple[SegmentRecord, ...]:
        """The stages of which the first `samples` samples hold at least one."""
        return tuple(segment.record for segment in self.segments if segment.span.first_sample < samples)


def block_lengths(spans: Sequence[StageSpan], *, multiple_of: int = 1) -> dict[str, int]:
    """Block of each source: the least common multiple of the sequence lengths of the stages that read it."""
    blocks: dict[str, int] = {}
    for span in spans:
        for name in span.sources:
            blocks[name] = math.lcm(blocks.get(name, multiple_of), span.sequence_length)
            if blocks[name] > LARGEST_BLOCK:
                lengths = sorted(
                    {other.sequence_length for other in spans if name in other.sources} | {multiple_of} - {1}
                )
                raise InputError(
                    f"source {name!r} is read with sequence lengths {', '.join(map(str, lengths))}, whose least common"
                    f" multiple is above {LARGEST_BLOCK:,} tokens: use lengths that divide one another"
                )
    return blocks


def _cut(cursor: Cursor, block_tokens: int, *, sequence_length: int, token_count: int, cut: str) -> Cursor:
    """The same position if samples of this length can be cut there, else the start of an unseen epoch."""
    if cursor.fits(sequence_length=sequence_length, token_count=token_count, cut=cut):
        return cursor
    return replace(cursor.restarted(), block_tokens=block_tokens, blocks=token_count // block_tokens, cut=cut)


def _from_origin(spans: Sequence[StageSpan], origin: Origin) -> list[StageSpan]:
    """The stages that are left at the origin, with samples counted from there on."""
    left, sample = [], origin.sample
    for span in spans:
        if span.end_step <= origin.step:
            continue
        first_step = max(span.first_step, origin.step)
        left.append(replace(span, first_step=first_step, first_sample=sample))
        sample = left[-1].end_sample
    return left

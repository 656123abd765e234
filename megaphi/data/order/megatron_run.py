"""A run in Megatron's order, with the interface of any other: steps, samples, and the position in every source.

The order (`megatron_order.py`) is monolithic, made for one length of run and one set of weights. So there are no
stages, and it cannot be edited during the run: the ledger records its inputs, and a run continues with exactly those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.order.ledger import UNREAD, Cursor, Origin, SegmentRecord
from megaphi.data.order.megatron_order import MegatronOrder
from megaphi.data.order.mixture import Split
from megaphi.data.order.schedule import StageSpan
from megaphi.data.storage.reader import Runs, TokenReader
from megaphi.data.storage.streams import TokenStream
from megaphi.errors import InputError


class MegatronRun:
    """The counterpart of `RunOrder` for a run that began in Megatron-LM."""

    kind = "megatron"

    def __init__(
        self,
        streams: Sequence[TokenStream],
        span: StageSpan,
        *,
        seed: int,
        split: Split,
        document_split: str | None = None,
    ) -> None:
        self.origin = Origin()
        self.seed = seed
        self.split: Split = split
        self.span = span
        self.cursors_at_origin = dict.fromkeys(span.sources, UNREAD)
        self._document_split = document_split
        self._order = MegatronOrder(
            span.sources,
            span.weights,
            [stream.datasets for stream in streams],
            sequence_length=span.sequence_length,
            seed=seed,
            samples=span.samples,
            split=split,
            document_split=document_split,
        )

    @property
    def end_sample(self) -> int:
        """Samples of the whole run."""
        return self.span.end_sample

    def span_at(self, step: int) -> StageSpan:
        """The one stage, which every step of the run belongs to."""
        if not 0 <= step < self.span.end_step:
            raise ValueError(f"step {step} of a run of {self.span.end_step}")
        return self.span

    def position_at(self, step: int) -> Origin:
        """Samples and tokens of the run before step `step`."""
        sample = step * self.span.global_batch
        return Origin(step=step, sample=sample, tokens=sample * self.span.sequence_length)

    def runs(self, sample_numbers: ArrayLike, reader: TokenReader) -> tuple[Runs, int, NDArray[np.int64]]:
        """Locate the S + 1 tokens of each sample; returns them, S, and that all of its S targets count.

        The reader's datasets are those of the order.
        """
        numbers_B, length = np.asarray(sample_numbers, dtype=np.int64), self.span.sequence_length
        return self._order.runs(numbers_B), length, np.full(len(numbers_B), length, dtype=np.int64)

    def cursors(self, samples: int) -> dict[str, Cursor]:
        """Tokens drawn from each source by the first `samples` samples of the run."""
        counts = self._order.counts(min(samples, self.end_sample))
        length = self.span.sequence_length
        return {
            name: Cursor(block_tokens=0, blocks=0, first_epoch=0, tokens=count * length, drawn=count * length)
            for name, count in counts.items()
        }

    def begun(self, samples: int) -> tuple[SegmentRecord, ...]:
        """Everything that the order depends on, once there is a sample."""
        if samples == 0:
            return ()
        record = SegmentRecord(
            first_sample=0,
            sequence_length=self.span.sequence_length,
            sources=self.span.sources,
            shares=(*map(repr, self.span.weights), f"split {self._document_split}"),
            horizon=self.span.samples,
        )
        return (record,)


def megatron_run(
    streams: Sequence[TokenStream], spans: Sequence[StageSpan], *, seed: int, split: Split, document_split: str | None
) -> MegatronRun:
    """Megatron's order of a run of one stage, in which all sources take part."""
    if len(spans) != 1:
        raise InputError(
            "task.mixture.order=megatron has no mixture stages: remove task.mixture.stages, or use"
            " task.mixture.order=keyed"
        )
    return MegatronRun(streams, spans[0], seed=seed, split=split, document_split=document_split)

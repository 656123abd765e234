"""Sample number -> the tokens it is made of, with no index: five pure steps and no state but the number itself.

1. The blend says which source sample n comes from, and its rank there. 2. epoch = rank div windows, with windows =
tokens div sequence_length of that source. 3. A permutation keyed by (seed, source, epoch) says which window.
4. The grid of windows is shifted by a keyed phase, another one in every epoch. 5. Window j covers the S + 1 tokens from
phase + j S on; the last one is only a label. The stream of a source is a ring: the last window may run past the end
into the beginning, and the fewer than S tokens that an epoch leaves out lie elsewhere in the next.

So an epoch shows every window once before any repeats, and no token is a target twice within an epoch. What it costs:
windows are cut in file order, so neighbours in a window were neighbours in the file (documents are shuffled once, when
they are tokenised); a document may be cut by a window's edge; and renaming a source reorders it, as its name is in the
key. What it buys: adding or reweighting sources leaves the order inside every other source as it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.data.blend import Blend
from megaphi.data.order import KeyedPermutation, derive_key, draw_below, stream
from megaphi.errors import InputError

Split = Literal["training", "validation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One kind of text in the mixture."""

    name: str
    """Names the source in reports and in its shuffle key: another name is another order."""
    weight: float
    """Share of the training samples, in any unit: weights are divided by their sum."""
    paths: tuple[str, ...]
    """Prefixes of the .bin/.idx pairs, read as one stream in this order."""
    validation_paths: tuple[str, ...] = ()
    """Prefixes held out for validation; a source without any takes no part in it."""
    unique_tokens: int | None = None
    """Tokens that the source is expected to hold; a dry run counts epochs with it where the files are not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """How much of a stage comes from one source."""

    name: str
    """A source of the mixture."""
    weight: float
    """Share of the stage's samples, in any unit: weights are divided by their sum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stretch of the run with shares, and perhaps a sequence length, of its own."""

    name: str
    """Names the stage in reports."""
    tokens: int | None = None
    """Length, rounded up to whole steps; none lasts to the end of the run (the last stage only)."""
    shares: tuple[Share, ...] = ()
    """Which sources, and how much of each; empty takes all with the weights of mixture.sources."""
    sequence_length: int | None = None
    """Tokens per sample in this stage; none takes batch.sequence_length."""
    global_batch: int | None = None
    """Sequences per step in this stage; none takes batch.global_batch."""
    micro_batch: int | None = None
    """Sequences per forward pass in this stage; none takes batch.micro_batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """What the model is trained on."""

    sources: tuple[Source, ...]
    stages: tuple[Stage, ...] = ()
    """One after the other; empty is one stage with the sources' weights. Every source goes on where it stopped."""
    order: Literal["keyed", "megatron"] = "keyed"
    """keyed: nothing is built. megatron: the order of Megatron-LM's builders, to continue a run started there."""
    isolate_documents: bool = False
    """Attend within documents only."""
    reset_positions: bool = False
    """Count positions from 0 in every document."""
    mask_document_ends: bool = False
    """Do not train on what follows the last token of a document: the beginning of an unrelated one."""


@dataclass(frozen=True)
class Locations:
    """Where each of B samples lies: source index, epoch and window of that source, first token in its stream."""

    source_B: NDArray[np.int64]
    epoch_B: NDArray[np.int64]
    window_B: NDArray[np.int64]
    start_token_B: NDArray[np.int64]


class MixtureOrder:
    """The order of a mixture, from nothing but the sizes: `locate` maps sample numbers to places.

    `split` is part of every key, so the two orders have nothing in common.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        token_counts: Sequence[int],
        sequence_length: int,
        seed: int,
        split: Split = "training",
        total_samples: int | None = None,
    ) -> None:
        check_sources(sources)
        check_sizes(sources, token_counts=token_counts, sequence_length=sequence_length, seed=seed)
        self.names = tuple(source.name for source in sources)
        self.token_counts = tuple(token_counts)
        self.sequence_length = sequence_length
        self.windows = tuple(count // sequence_length for count in token_counts)
        self.blend = Blend([source.weight for source in sources], total_samples=total_samples)
        self.seed = seed
        self.split = split

    def locate(self, sample_numbers: ArrayLike) -> Locations:
        """Places of B sample numbers (one dimension, any order, repeats allowed)."""
        source_B, rank_B = self.blend.locate(sample_numbers)
        epoch_B, position_B = np.divmod(rank_B, np.array(self.windows)[source_B])
        window_B = np.empty_like(rank_B)
        start_B = np.empty_like(rank_B)
        for source in np.unique(source_B):
            (members,) = np.nonzero(source_B == source)
            for epoch, group in _groups(epoch_B[members]):
                chosen = members[group]
                window_B[chosen] = self.window_order(int(source), epoch)(position_B[chosen])
                start_B[chosen] = window_B[chosen] * self.sequence_length + self.phase(int(source), epoch)
        return Locations(source_B, epoch_B, window_B, start_B % np.array(self.token_counts)[source_B])

    def window_order(self, source: int, epoch: int) -> KeyedPermutation:
        """Which window is the k-th of an epoch: keyed by (seed, split, source name, epoch, "windows")."""
        key = derive_key(self.seed, self.split, self.names[source], epoch, "windows")
        return KeyedPermutation(self.windows[source], key)

    def phase(self, source: int, epoch: int) -> int:
        """First token of window 0 of an epoch, in [0, sequence_length)."""
        key = derive_key(self.seed, self.split, self.names[source], epoch, "phase")
        return draw_below(self.sequence_length, stream(key))

    def counts(self, samples: int) -> dict[str, int]:
        """Samples taken from each source by the first `samples` of the run."""
        return dict(zip(self.names, self.blend.counts(samples).tolist(), strict=True))

    def epochs(self, samples: int) -> dict[str, float]:
        """How often the first `samples` of the run go through each source."""
        taken = self.counts(samples).values()
        return {name: count / size for name, count, size in zip(self.names, taken, self.windows, strict=True)}


def _groups(values_B: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """(value, indices that hold it) for every distinct value."""
    order = np.argsort(values_B, kind="stable")
    distinct, starts = np.unique(values_B[order], return_index=True)
    return list(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))


def check_sources(sources: Sequence[Source]) -> None:
    """Refuse a mixture that cannot be meant: no source, a weight that is no positive number, a name used twice."""
    if not sources:
        raise InputError("the mixture has no sources: give mixture.sources at least one")
    for source in sources:
        if not source.name:
            raise InputError(f"a source of the mixture (paths {', '.join(source.paths) or 'none'}) has no name")
        if not (math.isfinite(source.weight) and source.weight > 0):
            raise InputError(
                f"mixture.sources.{source.name}.weight={source.weight}: a weight must be a positive number"
                " (take the source out of the mixture to leave it unused)"
            )
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two sources of the mixture are named {name!r}: names must differ, they key the shuffle")


def check_sizes(sources: Sequence[Source], *, token_counts: Sequence[int], sequence_length: int, seed: int) -> None:
    """Refuse a source that does not hold one whole sample, and numbers that are out of range."""
    if not 1 <= sequence_length < 1 << 32:
        raise InputError(f"sequence length {sequence_length} is not a positive number of tokens below 2^32")
    if not 0 <= seed < 1 << 64:
        raise InputError(f"seed={seed} is outside 0 .. 2^64 - 1")
    for source, tokens in zip(sources, token_counts, strict=True):
        if tokens < sequence_length + 1:
            raise InputError(
                f"source {source.name!r} has {tokens:,} tokens, but one sample of sequence length {sequence_length:,}"
                f" needs {sequence_length + 1:,}: add data to it, shorten the sequence, or take it out of the mixture"
            )

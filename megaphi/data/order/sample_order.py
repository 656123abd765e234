"""Sample number -> the tokens it is made of, with no index: five pure steps and no state but the number itself.

1. The blend says which source sample n comes from, and its rank r there. 2. Sample first_sample + r of the source lies
in an epoch, and there in a block: a whole number of samples, the unit that is shuffled. 3. A permutation keyed by
(seed, split, source, epoch) says which block. 4. The grid of blocks is shifted by a keyed phase, another one in every
epoch. 5. A sample is the S + 1 tokens from its part of the block on; the last one is only a label. The stream of a
source is a ring: the last block may run past the end into the beginning, and the fewer than B tokens (B: tokens of a
block) that an epoch leaves out lie elsewhere in the next.

So an epoch shows every sample once before any repeats, and no token is a target twice within an epoch. Orders of equal
B with other S walk through the same blocks, so a run that changes its sequence length continues in every source where
it stopped. The cost: blocks are cut in file order, so neighbours in a block were neighbours in the file (documents are
shuffled once, when they are tokenised); a document may be cut by a sample's edge; and renaming a source reorders it, as
its name is in the key. The gain: adding or reweighting sources leaves the order inside every other source unchanged.
All of it is compiled, from csrc/index/order.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.compiled.module import compiled
from megaphi.compiled.numbers import whole_numbers
from megaphi.data.order.blend import ENDLESS, Blend
from megaphi.data.order.mixture import Split, check_names, check_sizes
from megaphi.data.order.permutation import derive_key
from megaphi.errors import InputError


@dataclass(frozen=True)
class Locations:
    """Location of each of B samples: source index, epoch and window of that source, first token in its stream.

    Window j of an epoch begins j S tokens after the epoch's phase.
    """

    source_B: NDArray[np.int64]
    epoch_B: NDArray[np.int64]
    window_B: NDArray[np.int64]
    start_token_B: NDArray[np.int64]


class MixtureOrder:
    """The order of a mixture, from nothing but the sizes: `locate` maps sample numbers to places. Threads may share it.

    `names` and `weights` of the sources; `split` is part of every key, so the two orders have nothing in common.
    `block_tokens`: the unit that is shuffled, per source, a multiple of `sequence_length` (default: one sample). Where
    this order is not the first to read a source, `first_epochs` and `first_samples` say where it goes on: the epoch,
    and how many samples (of this sequence length) of that epoch were taken.

    With B = block_tokens, k = B / S, n = token_count div B and u = first_sample + r for the r-th sample that the blend
    takes from a source:

        epoch  = first_epoch + u div (k n)
        block  = KeyedPermutation(n, derive_key(seed, split, name, epoch, "windows"))((u div k) mod n)
        phase  = draw_below(B, stream(derive_key(seed, split, name, epoch, "phase")))
        window = k block + u mod k
        start  = (phase + S window) mod token_count
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        *,
        token_counts: Sequence[int],
        sequence_length: int,
        seed: int,
        split: Split = "training",
        total_samples: int | None = None,
        block_tokens: Sequence[int] | None = None,
        first_samples: Sequence[int] | None = None,
        first_epochs: Sequence[int] | None = None,
    ) -> None:
        check_names(names)
        self.names = tuple(names)
        self.token_counts = tuple(token_counts)
        self.block_tokens = tuple([sequence_length] * len(names) if block_tokens is None else block_tokens)
        self.first_samples = tuple([0] * len(names) if first_samples is None else first_samples)
        self.first_epochs = tuple([0] * len(names) if first_epochs is None else first_epochs)
        check_sizes(
            names,
            token_counts=token_counts,
            sequence_length=sequence_length,
            block_tokens=self.block_tokens,
            seed=seed,
        )
        self._check_beginnings()
        self.sequence_length = sequence_length
        self.seed = seed
        self.split = split
        sizes = zip(self.token_counts, self.block_tokens, strict=True)
        self.windows = tuple(count // block * (block // sequence_length) for count, block in sizes)
        """Samples per epoch of each source."""
        self.blend = Blend(weights, total_samples=total_samples)
        keys = [derive_key(seed, split, name) for name in names]
        grids = zip(keys, self.token_counts, self.block_tokens, self.first_samples, self.first_epochs, strict=True)
        self._compiled = compiled().Order(self.blend.compiled, list(grids), sequence_length)

    def _check_beginnings(self) -> None:
        for name, sample, epoch in zip(self.names, self.first_samples, self.first_epochs, strict=True):
            if not (0 <= sample <= ENDLESS and 0 <= epoch <= ENDLESS):
                raise InputError(f"source {name!r} cannot begin at sample {sample} of epoch {epoch}: 0 .. 2^48 each")

    def locate(self, sample_numbers: ArrayLike) -> Locations:
        """Places of B sample numbers (one dimension, any order, repeats allowed)."""
        with self.blend.explained():
            return Locations(*self._compiled.locate(whole_numbers(sample_numbers)))

    def counts(self, samples: int) -> dict[str, int]:
        """Samples taken from each source by the first `samples` of this order."""
        return dict(zip(self.names, self.blend.counts(samples).tolist(), strict=True))

    def epochs(self, samples: int) -> dict[str, float]:
        """Number of epochs of each source in the first `samples` samples of this order."""
        taken = self.counts(samples).values()
        return {name: count / size for name, count, size in zip(self.names, taken, self.windows, strict=True)}

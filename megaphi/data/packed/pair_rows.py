"""Preference pairs as units of packed rows: a prompt once, then both answers, or one text that decides many pairs.

Both sides of a pair see the prompt, and neither sees the other: the chosen side lies behind the prompt, the rejected
one behind that, with the prompt as its prefix and positions that go on from it. What both sides begin with is computed
with the prompt. Pairs of single tokens need no side at all: the state behind the prompt decides them, and prompts that
begin one another share one text (`group_single_tokens`). Only tokens of sides are graded, so only they cost logits.

Legend: S positions, T positions of a micro-batch, N segments, R graded tokens, P pairs of single tokens, Q pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from megaphi.data.batch import Batch
from megaphi.data.packed.preference_pairs import PivotalGroup, PreferencePair, group_single_tokens, shared_prefix
from megaphi.data.packed.rows import MakeBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class PairBatch(Batch):
    """A flat row of units; `loss_mask_BS` is 1 where the next token is graded."""

    context_ranks_know_all: ClassVar[bool] = True
    segments_N4: NDArray[np.int32]
    """(start, end, start and end of the prefix): what attends to what."""
    rows_R: NDArray[np.int64]
    """Places whose next token is graded."""
    targets_R: NDArray[np.int64]
    """Those tokens."""
    sides_R: NDArray[np.int64]
    """2 q for the chosen side of the micro-batch's pair q, 2 q + 1 for the rejected one."""
    places_P: NDArray[np.int64]
    """Places at which one of two single tokens is preferred."""
    chosen_P: NDArray[np.int64]
    rejected_P: NDArray[np.int64]
    pairs_P: NDArray[np.int64]
    """Index of the pair within the micro-batch."""
    reference_Q2: NDArray[np.float64]
    """Log-probability of each side under the reference model; for a pair of single tokens (their difference, 0)."""
    lengths_Q2: NDArray[np.int64]
    """Graded tokens of each side."""
    numbers_Q: NDArray[np.int64]
    """Number of each pair in the data."""

    def graded_at(self, places_N: NDArray[np.int64]) -> Self:
        """The same micro-batch with what is graded at some of its places (ascending), counted among these."""
        here_R, here_P = (np.isin(places, places_N) for places in (self.rows_R, self.places_P))
        return replace(
            self,
            rows_R=np.searchsorted(places_N, self.rows_R[here_R]),
            targets_R=self.targets_R[here_R],
            sides_R=self.sides_R[here_R],
            places_P=np.searchsorted(places_N, self.places_P[here_P]),
            chosen_P=self.chosen_P[here_P],
            rejected_P=self.rejected_P[here_P],
            pairs_P=self.pairs_P[here_P],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairUnit:
    """One general pair, with its number in the data."""

    pair: PreferencePair
    number: int
    shared: int
    """Length of the sides' common prefix, which is computed with the prompt, yet graded for each side."""

    @property
    def prompt(self) -> NDArray[np.int32]:
        """The shared tokens, which are computed once."""
        return np.concatenate((self.pair.prompt, self.pair.chosen[: self.shared]))

    @property
    def tokens(self) -> int:
        """The last token of a side is graded, but nothing comes after it: it takes no place."""
        sides = len(self.pair.chosen) + len(self.pair.rejected)
        return len(self.pair.prompt) + sides - self.shared - 2


Unit = PairUnit | PivotalGroup


def units_of(pairs: Sequence[PreferencePair], *, single_tokens: bool) -> list[Unit]:
    """Units in which every pair is once; with `single_tokens`, pairs of single tokens are decided by two logits."""
    groups: list[PivotalGroup] = []
    is_single = np.array(
        [single_tokens and len(pair.chosen) == len(pair.rejected) == 1 for pair in pairs], dtype=np.bool_
    )
    if is_single.any():
        numbers = np.flatnonzero(is_single)
        groups = [
            PivotalGroup(
                tokens=group.tokens,
                places=group.places,
                chosen=group.chosen,
                rejected=group.rejected,
                members=numbers[group.members],
            )
            for group in group_single_tokens([pairs[number] for number in numbers.tolist()])
        ]
    general = [_general(pairs[number], number) for number in np.flatnonzero(~is_single).tolist()]
    return [*general, *groups]


def _general(pair: PreferencePair, number: int) -> PairUnit:
    # One token of each side must be left to be graded: a side may begin the other.
    shared = min(shared_prefix(pair), len(pair.chosen) - 1, len(pair.rejected) - 1)
    return PairUnit(pair=pair, number=number, shared=shared)


def length_of(unit: Unit) -> int:
    """Places that a unit takes in a row."""
    return len(unit.tokens) if isinstance(unit, PivotalGroup) else unit.tokens


def content_of(pairs: Iterable[PreferencePair]) -> str:
    """SHA-256 over all pairs, in order."""
    hashed = hashlib.sha256()
    for pair in pairs:
        hashed.update(bytes.fromhex(pair.content_hash))
    return hashed.hexdigest()


class _FlatRow:
    """Places of one micro-batch as they are filled, row after row."""

    def __init__(self, rows: int, *, capacity: int, padding_token: int) -> None:
        self.capacity = capacity
        self.tokens_T = np.full(rows * capacity, padding_token, dtype=np.int64)
        self.positions_T = np.zeros(rows * capacity, dtype=np.int64)
        self.segments: list[tuple[int, int, int, int]] = []
        self.rows, self.targets, self.sides = _Column(), _Column(), _Column()
        self.places, self.chosen, self.rejected, self.pairs = _Column(), _Column(), _Column(), _Column()
        self.numbers: list[int] = []
        self.lengths: list[tuple[int, int]] = []

    def fill(self, row: int, units: Iterable[Unit]) -> None:
        at = row * self.capacity
        for unit in units:
            at = self._add_pivotal(unit, at) if isinstance(unit, PivotalGroup) else self._add_pair(unit, at)
        if at < (row + 1) * self.capacity:
            self._segment(at, (row + 1) * self.capacity)

    def _segment(self, start: int, end: int, prefix: tuple[int, int] | None = None) -> None:
        before = 0 if prefix is None else prefix[1] - prefix[0]
        self.positions_T[start:end] = np.arange(before, before + end - start)
        self.segments.append((start, end, *(prefix or (start, start))))

    def _add_pivotal(self, unit: PivotalGroup, at: int) -> int:
        end = at + len(unit.tokens)
        self.tokens_T[at:end] = unit.tokens
        self._segment(at, end)
        first = len(self.numbers)
        self.places.add(at + unit.places)
        self.chosen.add(unit.chosen)
        self.rejected.add(unit.rejected)
        self.pairs.add(np.arange(first, first + len(unit.members)))
        self.numbers += unit.members.tolist()
        self.lengths += [(1, 1)] * len(unit.members)
        return end

    def _add_pair(self, unit: PairUnit, at: int) -> int:
        prompt_end = at + len(unit.prompt)
        self.tokens_T[at:prompt_end] = unit.prompt
        self._segment(at, prompt_end)
        end = prompt_end
        for side, graded in enumerate((unit.pair.chosen, unit.pair.rejected)):
            own = graded[unit.shared :]
            start, end = end, end + len(own) - 1
            self.tokens_T[start:end] = own[:-1]
            if end > start:
                self._segment(start, end, (at, prompt_end))
            first_graded = prompt_end - unit.shared - 1
            self.rows.add(np.concatenate((np.arange(first_graded, prompt_end), np.arange(start, end))))
            self.targets.add(graded)
            self.sides.add(np.full(len(graded), 2 * len(self.numbers) + side))
        self.numbers.append(unit.number)
        self.lengths.append((len(unit.pair.chosen), len(unit.pair.rejected)))
        return end


class _Column(list[NDArray[np.int64]]):
    """Numbers that come in arrays."""

    def add(self, values: NDArray[np.integer]) -> None:
        self.append(values.astype(np.int64))

    @property
    def whole(self) -> NDArray[np.int64]:
        return np.concatenate([np.zeros(0, dtype=np.int64), *self])


def pair_batch(
    units: Sequence[Unit], reference_N2: NDArray[np.float64], *, capacity: int, padding_token: int
) -> MakeBatch:
    """Return the function that makes micro-batches of units; `reference_N2`, by pair, may be filled in later."""

    def make(rows: list[list[int]], numbers_B: NDArray[np.int64]) -> PairBatch:
        flat = _FlatRow(len(rows), capacity=capacity, padding_token=padding_token)
        for row, members in enumerate(rows):
            flat.fill(row, (units[member] for member in members))
        numbers_Q = np.array(flat.numbers, dtype=np.int64)
        mask_T = np.zeros(len(flat.tokens_T), dtype=np.float32)
        mask_T[flat.rows.whole] = 1
        return PairBatch(
            tokens_BS=flat.tokens_T[None],
            labels_BS=flat.tokens_T[None],
            loss_mask_BS=mask_T[None],
            document_ids_BS=None,
            sample_numbers_B=numbers_B,
            positions_BS=flat.positions_T[None],
            segments_N4=np.array(flat.segments, dtype=np.int32),
            rows_R=flat.rows.whole,
            targets_R=flat.targets.whole,
            sides_R=flat.sides.whole,
            places_P=flat.places.whole,
            chosen_P=flat.chosen.whole,
            rejected_P=flat.rejected.whole,
            pairs_P=flat.pairs.whole,
            reference_Q2=reference_N2[numbers_Q].reshape(-1, 2),
            lengths_Q2=np.array(flat.lengths, dtype=np.int64).reshape(-1, 2),
            numbers_Q=numbers_Q,
        )

    return make

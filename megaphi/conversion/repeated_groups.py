"""The option `--key-value-groups` of `megaphi convert`: an equal model with more key-value heads, each written several
times.

Servers that cut attention between key-value heads refuse Phi-4's 10 on 4 or 8 GPUs. With 20 or 40 they divide: query
heads that shared a group of keys and values share it with fewer others, and attend to an equal copy. Our matrix holds
[its queries; its key; its value] of each group, so a new group is some of an old group's queries, then its key and its
value again. The copies cost memory and cache, and training the exported model would let them drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.weight_reader import WeightReader, box_from_rows
from megaphi.config import to_plain
from megaphi.conversion.formats.weight_names import RowSegment, segments_within
from megaphi.conversion.wrapped_reader import WrappedReader, stored_reader
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from megaphi.model.weights import weights_of


class WithRepeatedGroups(WrappedReader):
    """The model of `source` with `groups` key-value groups.

    Raises:
        InputError: `groups` is not a multiple of the model's, or does not divide its heads.
    """

    def __init__(self, source: WeightReader, groups: int) -> None:
        super().__init__(source)
        _check(source, groups)
        self.architecture = replace(source.architecture, key_value_groups=groups)
        self.config = {**source.config, "model": to_plain(self.architecture)}
        self._segments = dict(_changed_weights(source.architecture, self.architecture))

    def rows(self, name: str, start: int, end: int) -> Tensor:
        if name not in self._segments:
            return self.source.rows(name, start, end)
        parts = segments_within(self._segments[name], start, end)
        return torch.cat([self.source.rows(name, part.first, part.first + part.rows) for part in parts])

    def box(self, name: str, box: Box) -> Tensor:
        return box_from_rows(self, name, box)


def repeats(reader: WeightReader) -> int:
    """Number of times that a reader gives each key-value head of the model as it is stored."""
    return reader.architecture.key_value_groups // stored_reader(reader).architecture.key_value_groups


def _check(source: WeightReader, groups: int) -> None:
    own, heads = source.architecture.key_value_groups, source.architecture.heads
    if groups < 1 or groups % own or heads % groups:
        fitting = ", ".join(str(number) for number in range(own, heads + 1, own) if heads % number == 0)
        raise InputError(
            f"--key-value-groups {groups}: {source.folder} has {heads} heads in {own} groups, each of which can only be"
            f" repeated whole, for equally many heads: choose one of {fitting}"
        )


def _changed_weights(old: Architecture, new: Architecture) -> Iterator[tuple[str, list[RowSegment]]]:
    """(name, rows of the old weight that make up the new one), of every weight that has a part for each group."""
    for before, after in zip(weights_of(old), weights_of(new), strict=True):
        if (before.shape, before.groups) != (after.shape, after.groups):
            yield before.name, list(_segments(before, after))


def _segments(before: Weight, after: Weight) -> Iterator[RowSegment]:
    """Rows of the old weight in the order of the new one: a part that grows is repeated, another is dealt out."""
    if not before.parts or before.groups == after.groups:
        raise InputError(f"{before.name} depends on the number of key-value groups in another way: it stays as it is")
    times = after.groups // before.groups
    for group in range(after.groups):
        first = group // times * (before.rows // before.groups)
        for old, new in zip(before.parts, after.parts, strict=True):
            share = new // after.groups
            place = group % times * share if old == new else 0
            yield RowSegment(before.name, first + place, share)
            first += old // before.groups

"""The interface through which the engine reads weights, from our checkpoints and from other projects' formats.

A format needs to provide one thing: rows of a weight in its matrix form (model/weights.py). Boxes, which ranks of any
layout ask for, are assembled from rows here. Names and the order of rows are ours: a reader of another format
translates while it reads, so that every weight passes through memory in parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.model.architecture import Architecture


class WeightReader(Protocol):
    """Weights of one model; `name` is a name of model/weights.py."""

    @property
    def folder(self) -> Path:
        """The folder that holds the weights, for messages."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Known sections of the run's `RunConfig`, as plain values: at least `model` and `batch.sequence_length`."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """`step` and whatever else is known of the place in the run."""
        ...

    @property
    def architecture(self) -> Architecture: ...

    @property
    def carried(self) -> Mapping[str, Path]:
        """Small files that came with the weights (tokenizer, configurations), by name: every copy takes them along."""
        ...

    def dtype(self, name: str) -> torch.dtype: ...

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of the matrix form: [end - start, columns], of a norm [end - start]."""
        ...

    def box(self, name: str, box: Box) -> Tensor:
        """A box of the whole weight, in the box's shape."""
        ...


def box_from_rows(reader: WeightReader, name: str, box: Box) -> Tensor:
    """`WeightReader.box` for formats that know rows only: the rows that it touches, and of each its columns."""
    if len(box.shape) == 1:
        return reader.rows(name, box.offset[0], box.offset[0] + box.shape[0])
    halves = [0] if len(box.shape) == 2 else range(box.offset[0], box.offset[0] + box.shape[0])
    (first, left), (rows, columns) = box.offset[-2:], box.shape[-2:]
    per_half = reader.architecture.feed_forward  # only the SwiGLU matrix has three dimensions
    parts = []
    for half in halves:
        start = half * per_half + first
        parts.append(reader.rows(name, start, start + rows)[:, left : left + columns])
    return torch.stack(parts) if len(box.shape) == 3 else parts[0]

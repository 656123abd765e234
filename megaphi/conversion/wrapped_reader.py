"""A `WeightReader` over another one, which it answers for in all but what a conversion changes.

An option of `megaphi convert` that changes what is written is a subclass, so that planning, writing and `--verify` read
the changed model as they read any other. `stored_reader` is what all wrappers are around: the model as it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.model.architecture import Architecture


class WrappedReader:
    """A `WeightReader` that gives what `source` gives."""

    def __init__(self, source: WeightReader) -> None:
        self.source = source
        self.folder, self.state = source.folder, source.state
        self.architecture: Architecture = source.architecture
        self.config: Mapping[str, Any] = source.config

    @property
    def carried(self) -> Mapping[str, Path]:
        return self.source.carried  # read only if it is asked for: that may fail where nobody needs it

    def dtype(self, name: str) -> torch.dtype:
        return self.source.dtype(name)

    def rows(self, name: str, start: int, end: int) -> Tensor:
        return self.source.rows(name, start, end)

    def box(self, name: str, box: Box) -> Tensor:
        return self.source.box(name, box)


def stored_reader(reader: WeightReader) -> WeightReader:
    """The innermost reader: the weights as they are stored."""
    while isinstance(reader, WrappedReader):
        reader = reader.source
    return reader

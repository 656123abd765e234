"""A stand-in for a CUDA graph: the operators of a function and their very tensors, and nothing else of it.

A replay calls them again on the same tensors and stores the results where the first ones are. As on a GPU, what Python
decided while it was recorded is decided for ever: a value that is not in a static tensor is the old one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraphs:
    """A `Capture`; counts what it has captured and replayed."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        function()
        with _Recorder() as recorder:
            result = function()
        self.captured += 1

        def replay() -> Tensor:
            self.replayed += 1
            for operator, arguments, named, stored in recorder.calls:
                found = tree_leaves(operator(*arguments, **named))
                for old, new in zip(tree_leaves(stored), found, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            return result

        return replay


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a graph cannot be asked for a value while it is captured")
        if "empty" not in func.overloadpacket.__name__:  # memory is no work: a graph has it already
            self.calls.append((func, args, named, result))
        return result

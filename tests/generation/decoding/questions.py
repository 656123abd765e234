"""Counts of the host's waits for the device: on a CPU, where a GPU would make it wait.

A question is whatever brings a number to the host (`.tolist()`, `.item()`, `bool()` of a tensor ...), or gives a result
whose size depends on numbers (`nonzero`, `unique`, a mask as an index). A waiting copy is one from ordinary memory to
the device, which a tensor made on a device from a list is, and a list as an index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

QUESTIONS = (
    *("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal"),
    *("nonzero", "unique", "unique_consecutive", "masked_select", "bincount", "argwhere", "isin", "allclose"),
)
MADE_FROM_LISTS = (torch.tensor, torch.as_tensor)


class Questions(TorchFunctionMode):
    """Counts while it is entered, in `asked` by name."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: tuple[Any, ...] = (), named: dict | None = None
    ) -> Any:
        named, name = named or {}, getattr(function, "__name__", "")
        if name in QUESTIONS:
            self.asked[name] += 1
        elif name in ("__getitem__", "__setitem__") and (kind := _index(arguments[1])):
            self.asked[kind] += 1
        elif function in MADE_FROM_LISTS and named.get("device") is not None:
            self.asked["waiting copy"] += 1
        return function(*arguments, **named)


def _index(index: Any) -> str:
    """Name of the wait that an index costs; empty: none."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, list) for part in parts):
        return "waiting copy"
    is_mask = any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)
    return "mask as an index" if is_mask else ""


def asked_by(work: Callable[[], object]) -> dict[str, int]:
    """Questions and waiting copies of a call."""
    with Questions() as questions:
        work()
    return dict(questions.asked)

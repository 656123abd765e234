"""Tests marked `gpu` are left out, not skipped one by one, where there is no CUDA device."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or _has_gpu():
        return
    config.hook.pytest_deselected(items=marked)
    items[:] = [item for item in items if item not in set(marked)]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()

"""Tests run on the CPU of any machine; those marked `gpu` are for `pytest -m gpu` (make test-gpu), which sees the GPU.

Tests marked `gpu` or `dali` are left out, not skipped one by one, where there is no CUDA device or no DALI.

Hypothesis does not time its examples: the first one may pay for an import, and machines may be busy.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Hide every GPU from this process and from all that it starts, before torch could ask for one."""
    if not asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def asks_for_gpu(marks: str) -> bool:
    """Return whether the expression of `-m` selects the mark `gpu`."""
    return re.search(r"(?<!not )\bgpu\b", marks) is not None


STARTS_PROCESSES = (
    "run_in_world",
    "run_in_new_world",
    "start_ranks",
    "WarmMegaphi",
    "run_megaphi",
    "gguf_file",
    "subprocess",
)
"""A test file that has one of these starts processes, or loads a real model: `make test-fast` leaves it out."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if any(hasattr(getattr(item, "module", None), name) for name in STARTS_PROCESSES):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # the longest files first: two workers end at about one time
    for mark, is_possible in (("gpu", _has_gpu), ("dali", _has_dali)):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and not is_possible():
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in set(marked)]


@pytest.fixture(autouse=True, scope="module")
def worlds_end_with_their_file() -> Iterator[None]:
    yield
    if "tests.gloo_world" in sys.modules:
        sys.modules["tests.gloo_world"].end_worlds()


def pytest_collection_finish() -> None:
    """The garbage collector need not go through modules and tests again and again."""
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None

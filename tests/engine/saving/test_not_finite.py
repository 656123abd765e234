"""Weights that are NaN or infinite: a run refuses them with one message, whoever only reads a model is warned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megaphi.checkpoint.not_finite import not_finite_in
from tests.engine.saving.not_finite_runs import AVERAGE, NORM, not_finite
from tests.gloo_world import run_in_world


def test_training_refuses_what_a_reader_is_warned_of(tmp_path: Path) -> None:
    main, other = run_in_world(not_finite, str(tmp_path), processes=2)
    name = NORM.removeprefix("model/")
    for way in ("continued", "started from"):
        message = main[f"weights {way}"]
        assert f"NaN or infinite are 1 numbers of 1 tensors ({name}: 1): nothing can be trained from them" in message
        assert other[f"weights {way}"] == ""  # rank 0 reports it
    assert f"({AVERAGE}: 1): nothing can be trained" in main["optimizer continued"]
    assert "optimizer started from" not in main  # which takes the weights only
    for rank in (main, other):
        assert len(rank["weights read"]) == 1
        assert f"({name}: 1), and are kept: this is not a working model" in rank["weights read"][0]
        assert rank["optimizer read"] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_that_are_not_finite_are_counted(dtype: torch.dtype) -> None:
    largest = torch.full((1_000, 7), torch.finfo(dtype).max, dtype=dtype)
    assert not_finite_in(largest) == 0  # although their sum overflows
    largest[3, 2], largest[5:7, 1] = float("nan"), float("-inf")
    assert not_finite_in(largest) == 3
    assert not_finite_in(largest[:, 1]) == 2
    opposite = torch.tensor([float("inf"), float("-inf")], dtype=dtype)
    assert not_finite_in(opposite) == 2
    assert not_finite_in(torch.empty(0, dtype=dtype)) == 0
    assert not_finite_in(torch.arange(9, dtype=torch.uint8)) == 0

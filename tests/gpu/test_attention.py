"""Attention on a GPU: named backends, prefill over the cache in one launch, decode steps in CUDA graphs.

Not yet run on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.conversion.random_models import SHAPES, random_folder
from tests.gloo_world import run_on_gpu
from tests.gpu.attention_runs import answers, backends

pytestmark = pytest.mark.gpu


def test_captured_steps_and_chunks_of_prompts_change_nothing(tmp_path: Path) -> None:
    """Up to bfloat16's rounding of products of other shapes, after which a top token may be another."""
    random_folder(tmp_path / "model", replace(SHAPES["3 heads per group"], layers=2, head_size=16), scale=0.6)
    found = run_on_gpu(partial(answers, str(tmp_path / "model")))
    for case in ("captured", "chunks"):
        for (tokens, numbers), (expected_tokens, expected) in zip(found[case], found["launched"], strict=True):
            assert tokens[0] == expected_tokens[0]
            assert numbers[0] == pytest.approx(expected[0], abs=0.1)
            if tokens == expected_tokens:
                assert numbers == pytest.approx(expected, abs=0.1)


def test_flash_attention_and_plain_products_are_there() -> None:
    found = run_on_gpu(backends)
    assert found["auto"] in ("flash attention of torch", "cuDNN of torch")
    assert (found["flash"], found["math"]) == ("flash attention of torch", "plain products of torch")

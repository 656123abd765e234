"""A model whose output layer is its embedding trains alike under every layout, with one weight in its checkpoints.

A last pipeline stage holds a copy: both copies start equal, get the sum of both gradients, and stay equal to the bit,
with their optimizer state. That the gradient is the right one is said by plain PyTorch (tests/engine/test_plain_torch).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megaphi.checkpoint.format import CheckpointReader
from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.model.weights import EMBEDDING, OUTPUT
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.parity_runs import logits
from tests.engine.layout_runs import contents
from tests.engine.tied_runs import LAYOUTS, all_curves, change_ties, start
from tests.gloo_world import run_in_world

Found = dict[str, list[dict[str, Any]]]
"""By layout, what each rank saw."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tied")


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[float]:
    """The losses after `folder/source`, on one process."""
    return run_in_world(start, str(folder / "source"), processes=1)[0]


@pytest.fixture(scope="module")
def found(folder: Path, alone: list[float]) -> Found:
    curves: Found = {}
    for size in (1, 2, 4):
        names = [name for name, layout in LAYOUTS.items() if layout.model_ranks * (layout.data or 1) == size]
        for rank in run_in_world(all_curves, names, str(folder / "source"), str(folder), processes=size):
            for name, result in rank.items():
                curves.setdefault(name, []).append(result)
    assert curves.keys() == LAYOUTS.keys()
    return curves


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_as_one_process(name: str, found: Found, alone: list[float]) -> None:
    (one,) = found["1"]
    for rank in found[name]:
        np.testing.assert_allclose(rank["losses"], one["losses"], rtol=2e-6)
        np.testing.assert_allclose(rank["norms"], one["norms"], rtol=1e-5)
        np.testing.assert_allclose(rank["moved"], alone, rtol=2e-6)
    assert one["losses"][-1] < one["losses"][0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_resuming_is_bit_exact(name: str, found: Found) -> None:
    for rank in found[name]:
        for straight, resumed in (rank["states"], rank.get("bf16", ("", ""))):
            assert straight == resumed


def test_the_copies_of_a_pipeline_stay_equal(found: Found) -> None:
    for name, layout in LAYOUTS.items():
        for held in found[name][0]["copies"]:
            first, second = ([entry[1:] for entry in held if entry[0] is kind] for kind in (True, False))
            assert bool(second) == (layout.pipeline > 1)
            assert len(first) == layout.model_ranks // layout.pipeline * (layout.data or 1)
            if second:
                assert first == second, name
    initial, trained = found["PP2"][0]["copies"]
    assert initial != trained


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpoints_hold_it_once(name: str, folder: Path, found: Found) -> None:
    saved = contents(folder / name / "moved")
    assert saved == contents(folder / "source")
    assert len(saved) == 3 * (2 + 4 * 6)
    assert f"model/{EMBEDDING}" in saved
    assert not any(key.endswith(OUTPUT) for key in saved)
    assert CheckpointReader(folder / name / "own").architecture.tied_embeddings


def test_weights_may_be_untied_and_nothing_else(folder: Path, alone: list[float]) -> None:
    (found,) = run_in_world(change_ties, str(folder / "source"), str(folder / "changed"), processes=1)
    assert found["untied"] == (True, True)
    assert "model.tied_embeddings is True, the run has False" in found["resumed"]
    assert "model.tied_embeddings is False, the run has True" in found["tied"]


def test_it_is_read_by_two_stages_and_by_transformers_alike(folder: Path, found: Found, tmp_path: Path) -> None:
    """From checkpoints of one process and of two stages."""
    tokens_BS = np.random.default_rng(1).integers(255, size=(2, 20))
    for name in ("1", "PP2"):
        exported = to_huggingface(folder / name / "own", tmp_path / name, tokenizer=False)
        model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
        assert model.config.tie_word_embeddings
        assert model.lm_head.weight is model.model.embed_tokens.weight
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens_BS)).logits.numpy()
        arguments = (str(folder / name / "own"), ParallelLayout(pipeline=2), tokens_BS)
        for ours in run_in_world(logits, *arguments, processes=2):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)

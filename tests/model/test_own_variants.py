"""Every variant of attention, a fork's own too, against transformers' model with the same mask written out.

Loss and every gradient, by every way to compute the model, with and without recomputation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import attentive_folder, in_transformers, whole_weights
from tests.gloo_world import run_in_new_world, run_in_world
from tests.model.own_variants import (
    CASES,
    COMPUTED_BY,
    Found,
    distance_and_gradients,
    losses_and_gradients,
    refusals,
    teacher_logits,
    windowed_step,
)
from tests.stages.packed_runs import SHAPE, difference, gradients


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("attention") / "model", SHAPE)


@pytest.fixture(scope="module")
def found(checkpoint: Path) -> dict[tuple[str, str, str], Found]:
    (found,) = run_in_world(losses_and_gradients, str(checkpoint), processes=1)
    return found


@pytest.fixture(scope="module")
def theirs(checkpoint: Path) -> Any:
    return in_transformers(checkpoint, attn_implementation="eager")


def by_transformers(model: Any, name: str, loss_of: Callable[[Tensor, Tensor], Tensor] | None = None) -> Found:
    """Loss and gradients with an additive mask [B, 1, S, S]; `loss_of` logits and labels is the next token's."""
    case = CASES[name]
    tokens_BS, labels_BS = case.batch()
    hidden = torch.from_numpy(~case.visible_BSS[:, None])
    mask_B1SS = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    positions_BS = torch.from_numpy(case.positions_S).expand(case.rows, -1)
    model.zero_grad()
    logits_BSV = model(tokens_BS, attention_mask=mask_B1SS, position_ids=positions_BS).logits
    loss_of = loss_of or (lambda logits, labels: functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    loss = loss_of(logits_BSV, labels_BS)
    loss.backward()
    gradients = whole_weights({name: weight.grad for name, weight in model.named_parameters()}, SHAPE)
    return loss.item(), {name: values.double().numpy() for name, values in gradients.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_variant_is_its_mask_in_plain_pytorch(
    name: str, found: dict[tuple[str, str, str], Found], theirs: Any
) -> None:
    loss, expected = by_transformers(theirs, name)
    ways = {key: ours for key, ours in found.items() if key[0] == name}
    assert len(ways) == 3 * len(COMPUTED_BY) - 3 * (name == "prompt and answers")
    for way, (our_loss, ours) in ways.items():
        assert our_loss == pytest.approx(loss, rel=1e-6), way
        assert difference(ours, expected) < 1e-5, way


LAYOUTS = [ParallelLayout(pipeline=2, virtual_pipeline=2), ParallelLayout(tensor=2, sequence_parallel=True)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_an_objective_that_names_its_attention_trains_in_every_layout(
    layout: ParallelLayout, checkpoint: Path, theirs: Any, tmp_path: Path
) -> None:
    loss, expected = by_transformers(theirs, "sliding window")
    found = run_in_world(windowed_step, str(tmp_path), str(checkpoint), layout, processes=layout.model_ranks)
    assert found == pytest.approx([loss] * layout.model_ranks, rel=1e-6)
    assert difference(gradients(tmp_path), expected) < 1e-5


def test_a_target_of_a_fork_is_its_formula_in_plain_pytorch(checkpoint: Path, theirs: Any) -> None:
    loss, expected = by_transformers(
        theirs, "causal", lambda logits, _: (logits - teacher_logits()).square().sum(2).mean()
    )
    ((found, ours),) = run_in_world(distance_and_gradients, str(checkpoint), processes=1)
    assert found == pytest.approx(loss, rel=1e-6)
    assert difference(ours, expected) < 1e-5


def test_recomputation_changes_no_bit(found: dict[tuple[str, str, str], Found]) -> None:
    for (name, computed_by, recompute), (loss, values_by_name) in found.items():
        plain_loss, plain = found[name, computed_by, "none"]
        assert loss == plain_loss, (name, computed_by, recompute)
        for weight, values in values_by_name.items():
            np.testing.assert_array_equal(values, plain[weight], err_msg=f"{name}, {computed_by}, {recompute}")


def test_every_variant_is_another_function(found: dict[tuple[str, str, str], Found]) -> None:
    losses = {name: found[name, "fused", "none"][0] for name in CASES if CASES[name].rows == 2}
    values = sorted(losses.values())
    assert min(np.diff(values)) > 1e-3, losses


def test_a_pass_that_a_model_would_compute_as_another_is_refused() -> None:
    (said,) = run_in_new_world(refusals, processes=1)
    for kernels in ("fused", "reference"):
        for attention in ("Causal", "Segments", "SlidingWindow"):
            assert said[f"{kernels}, {attention}"] == f"{attention} sees 1 context rank of a sequence on 2"
    assert said["sequence parallel, rows"] == (
        "LogitRows picks tokens of a row, of which sequence parallelism gives every tensor rank a share: "
        "use layout.sequence_parallel=false"
    )
    assert said["reference, rows"] == "model.kernels=reference gives losses of labels or all logits, no LogitRows"
    assert said["transformer_engine"] == "model.kernels=transformer_engine computes causal attention, no Segments"

"""A weight that tensor ranks hold whole and use in part has the gradient of plain PyTorch on every one of them.

The weight is a factor for each number of a head, before attention's output matrix; plain PyTorch is transformers' Phi-3
with the same factors in a hook.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import attentive_folder, in_transformers
from tests.gloo_world import run_in_new_world, run_in_world
from tests.model.gradient_runs import FACTORS, refusals, variant_step
from tests.model.test_own_variants import by_transformers
from tests.stages.packed_runs import SHAPE, difference, gradients, processes_of

ALONE, TENSOR = ParallelLayout(), ParallelLayout(tensor=2)
SEQUENCE = ParallelLayout(tensor=2, sequence_parallel=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("gradients") / "model", SHAPE)


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients in plain PyTorch."""
    model = in_transformers(checkpoint, attn_implementation="eager")
    factors = []
    for layer in model.model.layers:
        factors.append(torch.nn.Parameter(torch.from_numpy(FACTORS.copy())))
        repeated = (lambda scale: lambda _, given: given[0] * scale.repeat(SHAPE.heads))(factors[-1])
        layer.self_attn.o_proj.register_forward_pre_hook(repeated)
    loss, found = by_transformers(model, "causal")
    name = "decoder.layers.{}.self_attention.linear_proj.scale"
    return loss, found | {name.format(number): _gradient(scale) for number, scale in enumerate(factors)}


def _gradient(parameter: torch.nn.Parameter) -> np.ndarray:
    assert parameter.grad is not None
    return parameter.grad.double().numpy()


@pytest.mark.parametrize(
    ("variant", "layout", "kernels"),
    [
        ("head_scale", ALONE, "fused"),
        ("head_scale", TENSOR, "fused"),
        ("head_scale", TENSOR, "reference"),
        ("head_scale", SEQUENCE, "fused"),
        ("head_scale", ParallelLayout(tensor=2, data=2), "fused"),
        ("head_scale_whole", TENSOR, "fused"),
        ("head_scale_whole", SEQUENCE, "fused"),
    ],
)
def test_a_weight_used_in_part_by_each_rank_trains_as_in_plain_pytorch(
    variant: str,
    layout: ParallelLayout,
    kernels: str,
    checkpoint: Path,
    expected: tuple[float, dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    loss, whole = expected
    ranks = run_in_world(
        variant_step, str(tmp_path), str(checkpoint), layout, variant, kernels, processes=processes_of(layout)
    )
    assert difference(gradients(tmp_path), whole) < 1e-5
    norm = float(np.sqrt(sum(np.square(values).sum() for values in whole.values())))
    for found_loss, found_norm, own in ranks:
        assert (found_loss, found_norm) == pytest.approx((loss, norm), rel=1e-5)
        np.testing.assert_array_equal(own, ranks[0][2])  # or the ranks' copies would part


@pytest.mark.skipif(
    version("megatron-core") >= "0.19", reason="Megatron-Core 0.19 refuses norms of heads without its own setting"
)
def test_norms_of_heads_of_which_megatron_does_not_know_are_added_up_too(checkpoint: Path, tmp_path: Path) -> None:
    for name, variant, layout in (("alone", "qk_norm", ALONE), ("cut", "head_norm_slots", TENSOR)):
        run_in_world(variant_step, str(tmp_path / name), str(checkpoint), layout, variant, processes=layout.model_ranks)
    assert difference(gradients(tmp_path / "cut"), gradients(tmp_path / "alone")) < 1e-5


def test_a_row_that_does_not_say_how_gradients_are_joined_is_refused_on_several_tensor_ranks() -> None:
    (cut,) = run_in_new_world(refusals, TENSOR, processes=1)
    row = "decoder.layers.*.self_attention.linear_proj.scale of model.variant=head_scale"
    assert cut["right"] == ""
    assert cut["says nothing"].startswith(f"{row}: every tensor rank holds all of it, and its row does not say how")
    assert "Megatron adds up the gradients of norms of heads: its row needs gradient=part" in cut["a norm of heads"]
    assert "linear_fc2.weight of model.variant=phi4: it is cut over the tensor ranks" in cut["a cut matrix"]
    (alone,) = run_in_new_world(refusals, ALONE, processes=1)
    assert set(alone.values()) == {""}

"""Gradients that are added up in the product: the former path's bits in fp32, and in bf16 the exactness of fp32."""

from __future__ import annotations

import pytest

from tests.gloo_world import run_in_world
from tests.model.weight_gradient_runs import CASES, both_ways, errors_in_bf16


@pytest.mark.parametrize("processes", CASES)
def test_steps_in_fp32_have_the_bits_of_the_former_path(processes: int) -> None:
    """Losses, gradient norms and weights, with recomputation, buckets, tensor ranks and pipeline stages."""
    for found in run_in_world(both_ways, processes, processes=processes):
        for name, (ours, former) in found.items():
            if name != "bfloat16 weights":
                assert ours == former, name
            else:  # there the gradients of micro-batches were rounded
                assert ours[0] == pytest.approx(former[0], abs=1e-3)
                assert ours[1] != former[1]


@pytest.mark.parametrize("loss_chunk_tokens", [0, 64])
def test_eight_micro_batches_in_bf16_are_as_exact_as_one_sum_in_fp32(loss_chunk_tokens: int) -> None:
    """The gradients of all matrices but the embedding, of a training step."""
    (errors,) = run_in_world(errors_in_bf16, loss_chunk_tokens, processes=1)
    print(errors)
    assert errors.ours <= errors.one_sum
    assert errors.former > 1_000 * errors.ours

"""Rows of the embedding: their gradient goes to the fp32 buffer, in fp32 with autograd's bits, in bf16 unrounded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from megaphi.kernels.embedding import add_rows, embedding
from tests.kernels.exactness import numbers

VOCABULARY, WIDTH, MICRO_BATCHES = 23, 16, 8
TOKENS = torch.randint(VOCABULARY, (MICRO_BATCHES, 3, 40), generator=torch.Generator().manual_seed(1))


def gradients(dtype: torch.dtype) -> list[Tensor]:
    return [numbers(3, 40, WIDTH, dtype=dtype, seed=seed) for seed in range(MICRO_BATCHES)]


def by_autograd(dtype: torch.dtype) -> Tensor:
    """The former path: a gradient of each micro-batch in the weight's format, added to an fp32 sum."""
    weight, total = numbers(VOCABULARY, WIDTH, dtype=dtype).requires_grad_(), torch.zeros(VOCABULARY, WIDTH)
    for tokens, grad in zip(TOKENS, gradients(dtype), strict=True):
        (found,) = torch.autograd.grad(functional.embedding(tokens, weight), weight, grad)
        total += found
    return total


def buffer_after(dtype: torch.dtype) -> Tensor:
    weight = torch.nn.Parameter(numbers(VOCABULARY, WIDTH, dtype=dtype))
    weight.main_grad = torch.zeros(VOCABULARY, WIDTH)  # pyright: ignore[reportAttributeAccessIssue]
    for tokens, grad in zip(TOKENS, gradients(dtype), strict=True):
        embedding(tokens, weight).backward(grad)
        assert weight.grad is not None
        assert not weight.grad.any()
        weight.grad = None
    return weight.main_grad  # pyright: ignore[reportAttributeAccessIssue]


def test_in_fp32_the_buffer_has_the_bits_of_autograds_sum() -> None:
    assert torch.equal(buffer_after(torch.float32), by_autograd(torch.float32))


def test_in_bf16_nothing_is_rounded_by_micro_batch() -> None:
    exact = torch.zeros(VOCABULARY, WIDTH, dtype=torch.float64)
    for tokens, grad in zip(TOKENS, gradients(torch.bfloat16), strict=True):
        exact.index_add_(0, tokens.flatten(), grad.flatten(0, 1).double())
    sums = (buffer_after(torch.bfloat16), by_autograd(torch.bfloat16))
    ours, former = ((found.double() - exact).norm() / exact.norm() for found in sums)
    assert ours < 1e-7 < former / 1_000


@pytest.mark.parametrize("first", [0, 8, 16])
def test_tokens_of_other_ranks_are_zeros_without_a_gradient(first: int) -> None:
    whole, upstream = numbers(24, WIDTH, dtype=torch.float32), gradients(torch.float32)[0]
    weight = whole[first : first + 8].clone().requires_grad_()
    rows = embedding(TOKENS[0], weight, first=first)
    is_here = ((TOKENS[0] >= first) & (TOKENS[0] < first + 8))[..., None]
    assert torch.equal(rows, whole[TOKENS[0]] * is_here)
    rows.backward(upstream)
    expected = torch.zeros_like(whole).index_add_(0, TOKENS[0].flatten(), upstream.flatten(0, 1))
    torch.testing.assert_close(weight.grad, expected[first : first + 8], rtol=1e-6, atol=1e-6)


def test_the_form_for_gpus_adds_the_same() -> None:
    """`index_put_` as it is called there, on the CPU. Not yet run on a GPU."""
    meta = torch.empty(VOCABULARY, WIDTH, device="meta")
    add_rows(meta, TOKENS[0].flatten().to("meta"), torch.empty(120, WIDTH, device="meta", dtype=torch.bfloat16))
    grad, total = gradients(torch.bfloat16)[0].flatten(0, 1), numbers(VOCABULARY, WIDTH, dtype=torch.float32)
    expected = total.clone()
    add_rows(expected, TOKENS[0].flatten(), grad)
    total.index_put_((TOKENS[0].flatten(),), grad.float(), accumulate=True)
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=1e-6)

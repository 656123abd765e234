"""The product that adds its weight's gradient to a buffer: bits, rounding, what autograd gets, what is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from megaphi.errors import InputError
from megaphi.kernels import definitions
from megaphi.kernels import linear as linear_module
from megaphi.kernels.cross_entropy import linear_cross_entropy
from megaphi.kernels.linear import add_product, check_product, linear
from megaphi.kernels.swiglu import swiglu, swiglu_linear
from tests.kernels.exactness import assert_error_at_most_twice, numbers

TOKENS, INPUTS, OUTPUTS, MICRO_BATCHES = 512, 48, 40, 8
FORMATS = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_linear_is_as_exact_as_pytorch(dtype: torch.dtype) -> None:
    def draw(seed: int) -> list[Tensor]:
        return [numbers(*size, dtype=dtype, seed=seed + n) for n, size in enumerate(((5, 3, 17), (9, 17), (9,)))]

    assert_error_at_most_twice(linear, functional.linear, functional.linear, draw)


def weight_with_buffer(dtype: torch.dtype = torch.float32, *, seed: int = 1) -> torch.nn.Parameter:
    weight = torch.nn.Parameter(numbers(OUTPUTS, INPUTS, dtype=dtype, seed=seed))
    weight.main_grad = torch.zeros(OUTPUTS, INPUTS)  # pyright: ignore[reportAttributeAccessIssue]
    return weight


def micro_batches(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Inputs, and gradients of the outputs."""
    return [
        (numbers(TOKENS, INPUTS, dtype=dtype, seed=n), numbers(TOKENS, OUTPUTS, dtype=dtype, seed=100 + n))
        for n in range(MICRO_BATCHES)
    ]


def buffer_after(dtype: torch.dtype) -> Tensor:
    weight = weight_with_buffer(dtype)
    for x, grad in micro_batches(dtype):
        linear(x, weight).backward(grad)
        assert weight.grad_added_to_main_grad  # pyright: ignore[reportAttributeAccessIssue]
        assert weight.grad is not None
        assert not weight.grad.any()
        weight.grad = None  # as Megatron's hook does
    return weight.main_grad  # pyright: ignore[reportAttributeAccessIssue]


def by_autograd(dtype: torch.dtype) -> Tensor:
    """The former path: a gradient of each micro-batch in the weight's format, added to an fp32 sum."""
    weight, total = weight_with_buffer(dtype), torch.zeros(OUTPUTS, INPUTS)
    for x, grad in micro_batches(dtype):
        (found,) = torch.autograd.grad(functional.linear(x, weight), weight, grad)
        total += found
    return total


def test_in_fp32_the_buffer_has_the_bits_of_autograds_sum() -> None:
    assert torch.equal(buffer_after(torch.float32), by_autograd(torch.float32))


def test_in_bf16_eight_micro_batches_are_as_exact_as_one_sum_in_fp32() -> None:
    """And tens of times as exact as gradients that are rounded to bf16 one by one."""
    x, grad = (torch.cat(parts) for parts in zip(*micro_batches(torch.bfloat16), strict=True))
    exact = grad.double().t() @ x.double()

    def error(found: Tensor) -> float:
        return ((found.double() - exact).norm() / exact.norm()).item()

    ours, one_sum = error(buffer_after(torch.bfloat16)), error(grad.float().t() @ x.float())
    former = error(by_autograd(torch.bfloat16))
    print(f"ours {ours:.2e}, one fp32 sum {one_sum:.2e}, rounded to bf16 by micro-batch {former:.2e}")
    assert ours <= one_sum < former / 1_000


@pytest.mark.parametrize("kind", ["swiglu", "loss in chunks"])
def test_in_bf16_the_products_inside_other_functions_round_nothing(kind: str) -> None:
    weight = weight_with_buffer(torch.bfloat16)
    labels = torch.arange(TOKENS) % OUTPUTS
    exact = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    former = exact.float()
    for x, grad in micro_batches(torch.bfloat16):
        if kind == "swiglu":
            wide = torch.cat((x, x.flip(0)), dim=1)
            swiglu_linear(wide, weight).backward(grad)
            products = [(grad, swiglu(wide))]
        else:
            products = loss_products(x, weight.detach(), labels)
            linear_cross_entropy(x, weight, labels, chunk_tokens=TOKENS // 4).sum().backward()
        exact += sum(part.double().t() @ given.double() for part, given in products)
        former += sum(part.t() @ given for part, given in products)  # pyright: ignore
        weight.grad = None
    found, rounded = ((total.double() - exact).norm() / exact.norm() for total in (weight.main_grad, former))  # pyright: ignore
    assert found < 1e-6 < rounded / 500


def loss_products(x: Tensor, weight: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Gradients of the logits of each chunk, as the chunked loss computes them, and its hidden states."""
    found = []
    for hidden, own in zip(x.chunk(4), labels.chunk(4), strict=True):
        logits = functional.linear(hidden, weight).requires_grad_()
        statistics = torch.ops.megaphi.cross_entropy_statistics(logits.detach(), own, 0)
        totals = statistics[:, :2].contiguous()
        ones = torch.ones(len(own))
        found.append(
            (torch.ops.megaphi.cross_entropy_backward(logits.detach(), own, totals, ones, 0, -100, 0.0), hidden)
        )
    return found


def test_autograd_gets_the_same_zeros_for_all_weights_and_makes_no_copy_of_them() -> None:
    weights = [weight_with_buffer(seed=seed) for seed in (1, 2)]
    x = numbers(4, INPUTS, dtype=torch.float32)
    sum(linear(x, weight).sum() for weight in weights).backward()  # pyright: ignore
    assert len({weight.grad.untyped_storage().data_ptr() for weight in weights}) == 1  # pyright: ignore


def test_a_weight_that_is_used_elsewhere_too_has_that_gradient_beside_the_zeros() -> None:
    """As a tied embedding: Megatron's hook adds it to the buffer. The shared zeros stay zeros."""
    weight = weight_with_buffer()
    x = numbers(4, INPUTS, dtype=torch.float32)
    (linear(x, weight).sum() + 3 * weight[2].sum()).backward()
    assert weight.grad is not None
    assert weight.grad.sum() == 3 * INPUTS
    assert not any(zeros.any() for zeros in linear_module._zeros.values())


def test_without_a_buffer_gradients_are_ordinary() -> None:
    x, weight = numbers(5, INPUTS, dtype=torch.float32), numbers(OUTPUTS, INPUTS, dtype=torch.float32).requires_grad_()
    grad = numbers(5, OUTPUTS, dtype=torch.float32, seed=3)
    (found,) = torch.autograd.grad(linear(x, weight), weight, grad)
    assert torch.equal(found, grad.t() @ x)


@pytest.mark.parametrize("function", [linear, swiglu_linear])
def test_a_frozen_weight_has_no_gradient(function: object) -> None:
    weight = numbers(OUTPUTS, INPUTS, dtype=torch.float32)
    x = numbers(5, 2 * INPUTS if function is swiglu_linear else INPUTS, dtype=torch.float32)
    (found,) = torch.autograd.grad(function(x.requires_grad_(), weight).sum(), x)  # pyright: ignore
    before = swiglu if function is swiglu_linear else lambda given: given
    (expected,) = torch.autograd.grad(functional.linear(before(x), weight).sum(), x)
    assert torch.equal(found, expected)


def test_the_input_of_a_frozen_weight_is_not_kept() -> None:
    x = numbers(5, INPUTS, dtype=torch.float32).requires_grad_()
    for weight in (weight_with_buffer(), numbers(OUTPUTS, INPUTS, dtype=torch.float32)):
        kept: set[int] = set()
        with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.add(part.data_ptr()), lambda part: part):  # noqa: B023
            linear(x, weight)
        assert (x.data_ptr() in kept) == weight.requires_grad


def test_hooks_on_saved_tensors_do_not_hide_the_buffer() -> None:
    """They give autograd another tensor for the weight, without attributes: saving on the CPU does."""
    weight = weight_with_buffer()
    x = numbers(5, INPUTS, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda part: part.clone(), lambda part: part):
        y = linear(x, weight)
    y.sum().backward()
    assert weight.main_grad.any()  # pyright: ignore[reportAttributeAccessIssue]
    assert weight.grad is not None
    assert not weight.grad.any()


def test_the_call_of_cublas_is_one_that_torch_takes() -> None:
    """On torch's meta device, which takes the same path and computes nothing."""
    total = torch.empty(OUTPUTS, INPUTS, device="meta")
    for dtype in (torch.bfloat16, torch.float32):
        grad, x = (torch.empty(TOKENS, size, device="meta", dtype=dtype) for size in (OUTPUTS, INPUTS))
        add_product(total, grad, x)
    assert total.dtype == torch.float32


def test_a_product_that_forgets_what_was_there_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    check_product(torch.device("cpu"), torch.bfloat16)
    monkeypatch.setattr(definitions, "add_product", lambda total, grad, x: total.copy_(grad.float().t() @ x.float()))
    with pytest.raises(InputError, match=r"torch.bfloat16 to torch.float32 on cpu \(the self-test is off by"):
        check_product(torch.device("cpu"), torch.bfloat16)

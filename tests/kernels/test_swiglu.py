"""SwiGLU, alone and with the matrix after it: exactness, the forward result once more, what is kept, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional

from megaphi.kernels import definitions
from megaphi.kernels.swiglu import swiglu, swiglu_linear
from tests.kernels.exactness import assert_error_at_most_twice, numbers

SHAPES = [(5, 2 * 123), (1, 2 * 1792), (0, 8), (2, 3, 64), (9, 2)]
FORMATS = [torch.float32, torch.bfloat16]


def torch_swiglu(x):
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_swiglu_is_as_exact_as_pytorch(shape, dtype, device):
    assert_error_at_most_twice(
        swiglu,
        torch_swiglu,
        definitions.swiglu,
        lambda seed: [numbers(*shape, dtype=dtype, device=device, spread=3.0, seed=seed)],
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_swiglu_and_a_matrix_are_as_exact_as_pytorch(dtype, device):
    def draw(seed):
        sizes = ((5, 3, 2 * 123), (17, 123))
        return [numbers(*size, dtype=dtype, device=device, seed=seed + n) for n, size in enumerate(sizes)]

    assert_error_at_most_twice(
        swiglu_linear, lambda x, w: functional.linear(torch_swiglu(x), w), definitions.swiglu_linear, draw
    )


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("width", [123, 128])
def test_the_backward_kernel_writes_gradient_and_result_over_its_inputs(width, dtype, device):
    x, grad = (numbers(5, each, dtype=dtype, device=device) for each in (2 * width, width))
    y, grad_x = swiglu(x), torch.ops.megaphi.swiglu_backward(grad, x)
    torch.ops.megaphi.swiglu_backward_and_forward_(grad, x)
    assert torch.equal(grad, y)
    assert torch.equal(x, grad_x)


def test_the_gradient_takes_the_place_of_x_where_that_is_allowed(device):
    weight, grad = (numbers(*shape, dtype=torch.float32, device=device) for shape in ((7, 32), (4, 7)))
    results = []
    for in_place in (False, True):
        x = numbers(4, 64, dtype=torch.float32, device=device).requires_grad_()
        before, product, parameter = x.detach().clone(), x * 1, weight.clone().requires_grad_()
        swiglu_linear(product, parameter, in_place=in_place).backward(grad)
        results.append((x.grad, parameter.grad))
        assert torch.equal(product, before) is not in_place
    for kept, overwritten in zip(*results, strict=True):
        assert torch.equal(kept, overwritten)


def test_later_use_of_an_overwritten_product_is_autograd_s_error(device):
    x = numbers(4, 64, dtype=torch.float32, device=device).requires_grad_()
    product = x * 1
    other = product.square().sum()  # saves the product, too
    swiglu_linear(
        product, numbers(7, 32, dtype=torch.float32, device=device).requires_grad_(), in_place=True
    ).sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()


def test_swiglu_before_a_matrix_is_not_kept(device):
    """Only x and the weight are held for the backward pass: a third less than with swiglu(x)."""
    x = numbers(4, 64, dtype=torch.float32, device=device).requires_grad_()
    weight = numbers(7, 32, dtype=torch.float32, device=device).requires_grad_()
    swiglu_linear(x, weight)  # the first call tries the kernel, which keeps something too
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        swiglu_linear(x, weight)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), weight.data_ptr()}


def test_large_gates(device):
    x = torch.tensor([[1e4, -1e4, 100.0, -100.0, 2.0, 3.0, 4.0, 5.0]], device=device)
    torch.testing.assert_close(swiglu(x), definitions.swiglu(x), rtol=1e-6, atol=1e-30)


def test_non_contiguous_inputs(device):
    x = numbers(64, 10, dtype=torch.float32, device=device).t()
    torch.testing.assert_close(swiglu(x), definitions.swiglu(x))


@pytest.mark.parametrize(
    ("x", "weight", "named"),
    [
        (torch.ones(2, 7), None, r"x has shape \(2, 7\)"),
        (torch.ones(2, 8, dtype=torch.int64), None, "x is torch.int64"),
        (torch.ones(2, 8), torch.ones(3, 8), "weight has shape"),
        (torch.ones(2, 8), torch.ones(3, 4).bfloat16(), "weight is torch.bfloat16 but x is torch.float32"),
        (torch.ones(2, 8), torch.ones(4), "expected a matrix"),
        (torch.ones(1).expand(2, 2**31 + 2), None, "x has 2 rows of 2147483650"),
    ],
)
def test_bad_input_names_the_argument(x, weight, named):
    with pytest.raises(ValueError, match=named):
        swiglu(x) if weight is None else swiglu_linear(x, weight)

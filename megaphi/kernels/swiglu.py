"""SwiGLU (Shazeer 2020) on the product of the MLP's first matrix, and fused with the matrix after it.

    y = silu(gate) * up,   x = [gate | up]

`swiglu_linear` keeps only x for the backward pass: its backward kernel recomputes y along with grad_x, for the gradient
of the matrix. A third of an MLP's activations per token is then never stored. The kernel writes y over grad_y, and
grad_x over x: a backward pass allocates nothing of the MLP's width but grad_y.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaphi.kernels import definitions
from megaphi.kernels.checks import check_float, check_like, check_shape
from megaphi.kernels.linear import linear, weight_gradient
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

define("swiglu(Tensor x) -> Tensor")
define("swiglu_backward(Tensor grad_y, Tensor x) -> Tensor")
define("swiglu_backward_and_forward_(Tensor(a!) grad_y, Tensor(b!) x) -> ()")
_operators = torch.ops.megaphi


def swiglu(x: Tensor) -> Tensor:
    """[..., 2 F] -> [..., F].

    Raises:
        ValueError: the last dimension is odd.
    """
    _check(x)
    if not is_compiled("swiglu", x):
        return definitions.swiglu(x)
    return _operators.swiglu(x)


def swiglu_linear(x: Tensor, weight_DF: Tensor, *, in_place: bool = False) -> Tensor:
    """swiglu(x) @ weight^T, [..., 2 F] -> [..., D], without keeping swiglu(x).

    Args:
        in_place: Let the gradient overwrite x. Any later use of x then fails with autograd's error.

    Raises:
        ValueError: the last dimension of x is not twice that of weight, or dtypes differ.
    """
    _check(x)
    if weight_DF.dim() != 2:
        raise ValueError(f"weight has shape {tuple(weight_DF.shape)}: expected a matrix")
    check_shape("weight", weight_DF, (weight_DF.shape[0], x.shape[-1] // 2), what="half the last dimension of x")
    check_like("weight", weight_DF, "x", x)
    if not is_compiled("swiglu", x):
        return linear(definitions.swiglu(x), weight_DF)
    return _SwigluLinear.apply(x.contiguous(), weight_DF, in_place)  # pyright: ignore[reportReturnType]


def _check(x: Tensor) -> None:
    check_float("x", x)
    if x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: the last dimension is [gate | up] and must be even")


class _SwigluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_DF: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(x, weight_DF)
        ctx.weight, ctx.in_place = weight_DF, in_place  # the very parameter, as in linear.py
        return functional.linear(_operators.swiglu(x), weight_DF)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        x, weight_DF = ctx.saved_tensors
        (grad_out,) = gradients
        grad_y = grad_out @ weight_DF
        if not ctx.needs_input_grad[1]:
            return _operators.swiglu_backward(grad_y, x), None, None
        grad_x, y = x.detach() if ctx.in_place else x.detach().clone(), grad_y
        _operators.swiglu_backward_and_forward_(y, grad_x)
        if ctx.in_place:
            torch.autograd.graph.increment_version(x)  # autograd must notice if x was saved elsewhere
        return grad_x, weight_gradient(ctx.weight, grad_out, y), None


def _half(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@torch.library.register_fake("megaphi::swiglu")
def _shapes(x: Tensor) -> Tensor:
    return _half(x)


@torch.library.register_fake("megaphi::swiglu_backward")
def _backward_shapes(grad_y: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("megaphi::swiglu_backward_and_forward_")
def _no_shapes(grad_y: Tensor, x: Tensor) -> None:
    return None


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    return _operators.swiglu_backward(grad, *ctx.saved_tensors)


torch.library.register_autograd("megaphi::swiglu", _backward, setup_context=_keep)


@self_test("swiglu")
def _try_swiglu(device: torch.device, dtype: torch.dtype) -> None:
    x, grad = numbers(3, 74, device=device, dtype=dtype), numbers(3, 37, device=device, dtype=dtype, seed=1)
    y = _operators.swiglu(x)
    assert_agree(y, definitions.swiglu(x))
    with torch.enable_grad():
        wide = x.double().requires_grad_()
        (expected,) = torch.autograd.grad(definitions.swiglu(wide), wide, grad.double())
    assert_agree(_operators.swiglu_backward(grad, x), expected.to(dtype))
    _operators.swiglu_backward_and_forward_(grad, x)
    assert_agree(x, expected.to(dtype))
    assert_agree(grad, y)

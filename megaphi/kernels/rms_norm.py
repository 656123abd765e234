"""RMSNorm, alone or fused with the residual addition before it.

    y = s / sqrt(mean(s^2) + eps) * weight,   s = x, or x + residual

(Zhang and Sennrich 2019.) Saved for the backward pass: s in its own dtype and one number per row, instead of two fp32
copies. The gradient that reaches s from elsewhere (the residual stream) is added in the same pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megaphi.kernels import definitions
from megaphi.kernels.checks import check_float, check_like, check_shape
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

define("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor rstd)")
define("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor y, Tensor total, Tensor rstd)")
define(
    "rms_norm_backward(Tensor grad_y, Tensor? grad_total, Tensor x, Tensor weight, Tensor rstd)"
    " -> (Tensor grad_x, Tensor grad_weight)"
)
_operators = torch.ops.megaphi


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """`x` [..., D] normalised over D; same dtype as x.

    Raises:
        ValueError: weight is not [D], or its dtype or device differs from x's.
    """
    _check(x, weight_D)
    if not is_compiled("rms_norm", x):
        return definitions.rms_norm(x, weight_D, eps)
    return _operators.rms_norm(x, weight_D, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual), the sum rounded to x's dtype as if it had been computed separately.

    Raises:
        ValueError: residual is not like x, or weight is not [D] of x's dtype.
    """
    _check(x, weight_D)
    check_shape("residual", residual, tuple(x.shape), what="the shape of x")
    check_like("residual", residual, "x", x)
    if not is_compiled("add_rms_norm", x):
        return definitions.add_rms_norm(x, residual, weight_D, eps)
    y, total, _ = _operators.add_rms_norm(x, residual, weight_D, eps)
    return y, total


def rms_norm_beside(x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x), x), whose gradients are added in the norm's backward kernel: `add_rms_norm` of a finished sum.

    Raises:
        ValueError: as `rms_norm`.
    """
    _check(x, weight_D)
    if not is_compiled("rms_norm", x):
        return definitions.rms_norm(x, weight_D, eps), x
    return _Beside.apply(x, weight_D, eps)  # pyright: ignore[reportReturnType]


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, rstd = _operators.rms_norm(x, weight_D, eps)
        ctx.save_for_backward(x, weight_D, rstd)
        return y, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return *_operators.rms_norm_backward(*gradients, *ctx.saved_tensors), None


def _check(x: Tensor, weight_D: Tensor) -> None:
    check_float("x", x)
    check_shape("weight", weight_D, (x.shape[-1],), what="the last dimension of x")
    check_like("weight", weight_D, "x", x)


def _row_numbers(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("megaphi::rms_norm")
def _rms_norm_shapes(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), _row_numbers(x)


@torch.library.register_fake("megaphi::add_rms_norm")
def _add_rms_norm_shapes(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape), _row_numbers(x)


@torch.library.register_fake("megaphi::rms_norm_backward")
def _backward_shapes(
    grad_y: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_y: Tensor, _: Any) -> tuple[Tensor, Tensor, None]:
    return *_operators.rms_norm_backward(grad_y, None, *ctx.saved_tensors), None


def _keep_total(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], inputs[2], output[2])
    ctx.mark_non_differentiable(output[2])


def _add_backward(ctx: Any, grad_y: Tensor, grad_total: Tensor, _: Any) -> tuple[Tensor, Tensor, Tensor, None]:
    grad_x, grad_weight = _operators.rms_norm_backward(grad_y, grad_total, *ctx.saved_tensors)
    return grad_x, grad_x, grad_weight, None


torch.library.register_autograd("megaphi::rms_norm", _backward, setup_context=_keep)
torch.library.register_autograd("megaphi::add_rms_norm", _add_backward, setup_context=_keep_total)


@self_test("rms_norm")
def _try_rms_norm(device: torch.device, dtype: torch.dtype) -> None:
    x, weight = numbers(3, 37, device=device, dtype=dtype), numbers(37, device=device, dtype=dtype, seed=1)
    y, rstd = _operators.rms_norm(x, weight, 1e-5)
    assert_agree(y, definitions.rms_norm(x, weight, 1e-5))
    _try_backward(x, weight, rstd)


@self_test("add_rms_norm")
def _try_add_rms_norm(device: torch.device, dtype: torch.dtype) -> None:
    x, residual = (numbers(3, 37, device=device, dtype=dtype, seed=seed) for seed in (0, 2))
    weight = numbers(37, device=device, dtype=dtype, seed=1)
    y, total, rstd = _operators.add_rms_norm(x, residual, weight, 1e-5)
    assert_agree(total, x + residual)
    assert_agree(y, definitions.rms_norm(total, weight, 1e-5))
    _try_backward(total, weight, rstd)


def _try_backward(x: Tensor, weight: Tensor, rstd: Tensor) -> None:
    grad, other = (numbers(3, 37, device=x.device, dtype=x.dtype, seed=seed) for seed in (3, 4))
    with torch.enable_grad():
        wide_x, wide_weight = (tensor.double().requires_grad_() for tensor in (x, weight))
        output = definitions.rms_norm(wide_x, wide_weight, 1e-5)
        expected = torch.autograd.grad(output, (wide_x, wide_weight), grad.double())
    grad_x, grad_weight = _operators.rms_norm_backward(grad, other, x, weight, rstd)
    assert_agree(grad_x, (expected[0] + other.double()).to(x.dtype))
    assert_agree(grad_weight, expected[1].to(x.dtype))

"""Softmax of attention scores, scale and mask included; under a causal mask only the visible half is touched.

    y = softmax(scale x) over visible keys,   grad_x = scale y (grad - sum(grad y))

Any number of queries and keys. Megatron's fused kernel stops at 16,384 keys and needs heads x batch to divide by four;
Phi-4 under tensor parallelism 4 has ten heads per rank, for which it is silently not used.

Legend: B batch, H heads, Q queries, K keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megaphi.kernels import definitions
from megaphi.kernels.checks import check_float
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

define("causal_softmax(Tensor x, float scale) -> Tensor")
define("causal_softmax_(Tensor(a!) x, float scale) -> ()")
define("masked_softmax(Tensor x, Tensor hidden, float scale) -> Tensor")
define("masked_softmax_(Tensor(a!) x, Tensor hidden, float scale) -> ()")
define("softmax_backward(Tensor grad_y, Tensor y, float scale, bool causal) -> Tensor")
_operators = torch.ops.megaphi


def causal_softmax(x_BHQK: Tensor, scale: float, *, in_place: bool = False) -> Tensor:
    """Query q sees keys 0 to q + K - Q, so the last one sees all. In place: x becomes the result.

    Raises:
        ValueError: x is not [B, H, Q, K], or has fewer keys than queries.
    """
    _check(x_BHQK)
    if x_BHQK.shape[3] < x_BHQK.shape[2]:
        raise ValueError(f"x has {x_BHQK.shape[3]} keys for {x_BHQK.shape[2]} queries: the first would see none")
    if not is_compiled("causal_softmax", x_BHQK):
        y_BHQK = definitions.causal_softmax(x_BHQK, scale)
        return x_BHQK.copy_(y_BHQK) if in_place else y_BHQK
    if in_place and not torch.compiler.is_compiling():  # torch.compile works out by itself what can be in place
        return _InPlace.apply(x_BHQK, None, scale)  # pyright: ignore[reportReturnType]
    return _operators.causal_softmax(x_BHQK, scale)


def masked_softmax(x_BHQK: Tensor, hidden: Tensor, scale: float, *, in_place: bool = False) -> Tensor:
    """True in `hidden` (which broadcasts to x) hides a key; a query that sees nothing gets zeros. In place: as above.

    Raises:
        ValueError: x is not [B, H, Q, K], or hidden no bool tensor that broadcasts to it.
    """
    _check(x_BHQK)
    _check_mask(hidden, x_BHQK)
    if not is_compiled("masked_softmax", x_BHQK):
        y_BHQK = definitions.masked_softmax(x_BHQK, hidden, scale)
        return x_BHQK.copy_(y_BHQK) if in_place else y_BHQK
    if in_place and not torch.compiler.is_compiling():
        return _InPlace.apply(x_BHQK, hidden, scale)  # pyright: ignore[reportReturnType]
    return _operators.masked_softmax(x_BHQK, hidden, scale)


def _check(x: Tensor) -> None:
    check_float("x", x)
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected [batch, heads, queries, keys]")


def _check_mask(hidden: Tensor, x: Tensor) -> None:
    fits = hidden.dim() == 4 and all(m in (1, n) for m, n in zip(hidden.shape[:3], x.shape[:3], strict=True))
    if hidden.dtype != torch.bool or not fits or hidden.shape[3] != x.shape[3]:
        raise ValueError(
            f"hidden is {hidden.dtype} {tuple(hidden.shape)}: expected bool [B or 1, H or 1, Q or 1, K] for x of "
            f"{tuple(x.shape)}"
        )
    if hidden.device != x.device:
        raise ValueError(f"hidden is on {hidden.device} but x is on {x.device}: move one of them")


class _InPlace(torch.autograd.Function):
    """Only the softmax uses the scores, so their memory can hold the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hidden: Tensor | None, scale: float) -> Tensor:
        if hidden is None:
            _operators.causal_softmax_(x, scale)
        else:
            _operators.masked_softmax_(x, hidden, scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.settings = (scale, hidden is None)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _operators.softmax_backward(gradients[0], *ctx.saved_tensors, *ctx.settings), None, None


@torch.library.register_fake("megaphi::causal_softmax_")
def _causal_in_place_shapes(x: Tensor, scale: float) -> None:
    return None


@torch.library.register_fake("megaphi::masked_softmax_")
def _masked_in_place_shapes(x: Tensor, hidden: Tensor, scale: float) -> None:
    return None


@torch.library.register_fake("megaphi::causal_softmax")
def _causal_shapes(x: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("megaphi::masked_softmax")
def _masked_shapes(x: Tensor, hidden: Tensor, scale: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("megaphi::softmax_backward")
def _backward_shapes(grad_y: Tensor, y: Tensor, scale: float, causal: bool) -> Tensor:
    return y.new_empty(y.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.scale = inputs[-1]


def _causal_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _operators.softmax_backward(grad, *ctx.saved_tensors, ctx.scale, True), None


def _masked_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _operators.softmax_backward(grad, *ctx.saved_tensors, ctx.scale, False), None, None


torch.library.register_autograd("megaphi::causal_softmax", _causal_backward, setup_context=_keep)
torch.library.register_autograd("megaphi::masked_softmax", _masked_backward, setup_context=_keep)


@self_test("causal_softmax")
def _try_causal(device: torch.device, dtype: torch.dtype) -> None:
    x = numbers(1, 2, 3, 37, device=device, dtype=dtype)
    y = _operators.causal_softmax(x, 0.7)
    assert_agree(y, definitions.causal_softmax(x, 0.7))
    _operators.causal_softmax_(x, 0.7)
    assert_agree(x, y)
    _try_backward(y, causal=True)


@self_test("masked_softmax")
def _try_masked(device: torch.device, dtype: torch.dtype) -> None:
    x = numbers(2, 2, 3, 37, device=device, dtype=dtype)
    hidden = numbers(2, 1, 3, 37, device=device, dtype=torch.float32, seed=2) > 0.5
    y = _operators.masked_softmax(x, hidden, 0.7)
    assert_agree(y, definitions.masked_softmax(x, hidden, 0.7))
    _operators.masked_softmax_(x, hidden, 0.7)
    assert_agree(x, y)
    _try_backward(y, causal=False)


def _try_backward(y: Tensor, *, causal: bool) -> None:
    grad = numbers(*y.shape, device=y.device, dtype=y.dtype, seed=3)
    wide_grad, wide_y = grad.double(), y.double()
    expected = 0.7 * wide_y * (wide_grad - (wide_grad * wide_y).sum(-1, keepdim=True))
    assert_agree(_operators.softmax_backward(grad, y, 0.7, causal), expected.to(y.dtype))

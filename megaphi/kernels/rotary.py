"""Rotary positions (Su et al. 2021) on the packed QKV product: queries and keys are rotated in one launch, values are
left alone.

Halves (a, b) of a head at position p become (a cos - b sin, b cos + a sin) with angles p base^(-2j/K), as in Phi-4's
release. In place by default: nothing else needs the product of the QKV matrix. The gradient is rotated back.

Legend: S sequence, B batch, G key-value groups, N heads of a group, K head size, P positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megaphi.kernels import definitions
from megaphi.kernels.checks import check_float, check_like, check_range, check_shape
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

_ARGUMENTS = "Tensor cos, Tensor sin, Tensor? positions, int offset, int rotated, bool inverse"
define(f"rotary(Tensor x, {_ARGUMENTS}) -> Tensor")
define(f"rotary_(Tensor(a!) x, {_ARGUMENTS}) -> ()")
_operators = torch.ops.megaphi


def rotary_table(
    positions: int, head_size: int, *, base: float, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """(cos, sin), fp32 [P, K / 2]; angles are computed in fp32 as transformers and Megatron do."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=device) / head_size
    angles_PK = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), 1.0 / base**exponents)
    return angles_PK.cos(), angles_PK.sin()


def rotary(
    x_SBGNK: Tensor,
    cos_PK: Tensor,
    sin_PK: Tensor,
    *,
    rotated: int,
    positions_SB: Tensor | None = None,
    offset: int = 0,
    in_place: bool = False,
) -> Tensor:
    """Rotate the first `rotated` of the N heads of every group by their positions; the others stay as they are.

    Args:
        x_SBGNK: Megatron's packed QKV has H / G queries, a key and a value in each group: rotated = N - 1.
        cos_PK: From `rotary_table`; every position must be in it.
        positions_SB: int64 position of each token (they may restart at a document); default `offset` + s.
        in_place: Rotate x itself and return it.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a position is not in the table.
    """
    _check(x_SBGNK, cos_PK, sin_PK, rotated=rotated, positions_SB=positions_SB, offset=offset)
    if not is_compiled("rotary", x_SBGNK):
        turned = definitions.rotary(x_SBGNK, cos_PK, sin_PK, rotated=rotated, positions_SB=positions_SB, offset=offset)
        return x_SBGNK.copy_(turned) if in_place else turned
    if in_place and not torch.compiler.is_compiling():  # torch.compile works out by itself what can be in place
        return _InPlace.apply(x_SBGNK, cos_PK, sin_PK, positions_SB, offset, rotated)  # pyright: ignore
    return _operators.rotary(x_SBGNK, cos_PK, sin_PK, positions_SB, offset, rotated, False)


def _check(x: Tensor, cos: Tensor, sin: Tensor, *, rotated: int, positions_SB: Tensor | None, offset: int) -> None:
    check_float("x", x)
    if x.dim() != 5 or x.shape[-1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: expected [S, B, G, N, K] with an even head size K")
    if not 0 <= rotated <= x.shape[3]:
        raise ValueError(f"rotated = {rotated}: a group of x has {x.shape[3]} heads")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, table in (("cos", cos), ("sin", sin)):
        check_shape(name, table, (cos.shape[0], x.shape[-1] // 2), what="positions by half the head size")
        if table.dtype != wide or table.device != x.device:
            raise ValueError(f"{name} is {table.dtype} on {table.device}: expected {wide} on {x.device}")
    if positions_SB is not None:
        check_shape("positions", positions_SB, tuple(x.shape[:2]), what="[S, B] of x")
        check_like("positions", positions_SB, "an int64 tensor beside x", x.new_empty(0, dtype=torch.int64))
        check_range("positions", positions_SB, upper=cos.shape[0])
    elif offset < 0 or offset + x.shape[0] > cos.shape[0]:
        raise ValueError(
            f"offset = {offset}: positions {offset} to {offset + x.shape[0] - 1} are not all in the table of "
            f"{cos.shape[0]} positions"
        )


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None, offset: int, rotated: int
    ) -> Tensor:
        ctx.save_for_backward(cos, sin, positions)
        ctx.numbers = (offset, rotated)
        ctx.mark_dirty(x)
        _operators.rotary_(x, cos, sin, positions, offset, rotated, False)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        # Not in place: the gradient may be used elsewhere too.
        return _operators.rotary(gradients[0], *ctx.saved_tensors, *ctx.numbers, True), None, None, None, None, None


@torch.library.register_fake("megaphi::rotary")
def _shapes(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("megaphi::rotary_")
def _no_shapes(x: Tensor, *_: Any) -> None:
    return None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, positions, *numbers_and_direction = inputs
    ctx.save_for_backward(cos, sin, positions)
    ctx.numbers = numbers_and_direction


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    offset, rotated, inverse = ctx.numbers
    turned_back = _operators.rotary(grad, *ctx.saved_tensors, offset, rotated, not inverse)
    return turned_back, None, None, None, None, None, None


torch.library.register_autograd("megaphi::rotary", _backward, setup_context=_keep)


@self_test("rotary")
def _try_rotary(device: torch.device, dtype: torch.dtype) -> None:
    x = numbers(3, 2, 2, 3, 10, device=device, dtype=dtype)
    cos, sin = rotary_table(9, 10, base=100.0, device=device)
    if dtype == torch.float64:
        cos, sin = cos.double(), sin.double()
    restarting = torch.tensor([[0, 8], [1, 0], [2, 1]], device=device)
    for positions, offset in ((None, 5), (restarting, 0)):
        place: dict[str, Any] = {"rotated": 2, "positions_SB": positions, "offset": offset}
        turned = _operators.rotary(x, cos, sin, positions, offset, 2, False)
        assert_agree(turned, definitions.rotary(x, cos, sin, **place))
        back = definitions.rotary(turned, cos, -sin, **place)
        _operators.rotary_(turned, cos, sin, positions, offset, 2, True)
        assert_agree(turned, back)

"""Required accuracy of a kernel: its error against fp64 at most twice that of PyTorch in the same number format.

Errors are taken forward and for every gradient, as the root of the mean square and as the largest, over several draws
(the largest of a few errors is mostly luck). What no result in that format can beat is allowed too: half a unit in the
last place of the largest number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]
Draw = Callable[[int], Sequence[Tensor]]
"""Inputs from a seed; seeds come ten apart, so that a draw may use several."""
DRAWS = 4


def numbers(*shape: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0, spread: float = 1.0) -> Tensor:
    """Normal numbers that depend on shape and seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).to(device=device, dtype=dtype)


def results(
    function: Function, inputs: Sequence[Tensor], *, seed: int = 77, with_gradients: bool = True
) -> list[Tensor]:
    """Outputs of `function`, then the gradient of every floating point input, for fixed gradients of the outputs."""
    leaves = [x.detach().requires_grad_(with_gradients) if x.is_floating_point() else x for x in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if not with_gradients:
        return list(outputs)
    upstream = [
        numbers(*output.shape, dtype=torch.float32, device=str(output.device), seed=seed + n).to(output.dtype)
        for n, output in enumerate(outputs)
    ]
    gradients = torch.autograd.grad(outputs, [leaf for leaf in leaves if leaf.requires_grad], upstream)
    return [*(output.detach() for output in outputs), *gradients]


def assert_error_at_most_twice(
    ours: Function, pytorch: Function, exact: Function, draw: Draw, *, with_gradients: bool = True
) -> None:
    """`exact` is called with the same inputs in fp64; the upstream gradients are the same numbers for all three."""
    errors: list[tuple[Tensor, Tensor, float]] | None = None
    for seed in range(DRAWS):
        found = list(_errors(ours, pytorch, exact, draw(10 * seed), with_gradients=with_gradients))
        errors = found if errors is None else [_pooled(*pair) for pair in zip(errors, found, strict=True)]
    assert errors is not None
    for number, (mine, theirs, unbeatable) in enumerate(errors):
        for measure in (_root_mean_square, _largest) if mine.numel() else ():
            allowed = max(2 * measure(theirs), unbeatable)
            assert measure(mine) <= allowed, (
                f"result {number}: {measure.__name__} error {measure(mine):.3g}, allowed {allowed:.3g}"
            )


def _errors(
    ours: Function, pytorch: Function, exact: Function, inputs: Sequence[Tensor], *, with_gradients: bool
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """(our errors, PyTorch's errors, what cannot be beaten) of every result."""
    wide = [x.double() if x.is_floating_point() else x for x in inputs]
    dtype = next(x.dtype for x in inputs if x.is_floating_point())
    found = partial(results, with_gradients=with_gradients)
    mine, theirs = found(_rounded(ours, dtype), inputs), found(_rounded(pytorch, dtype), inputs)
    for a, b, true in zip(mine, theirs, found(_rounded(exact, dtype), wide), strict=True):
        assert a.shape == true.shape
        largest = true.abs().max().item() if true.numel() else 0.0
        yield (a.double() - true).flatten(), (b.double() - true).flatten(), torch.finfo(a.dtype).eps / 2 * largest


def _pooled(one: tuple[Tensor, Tensor, float], other: tuple[Tensor, Tensor, float]) -> tuple[Tensor, Tensor, float]:
    return torch.cat((one[0], other[0])), torch.cat((one[1], other[1])), max(one[2], other[2])


def _rounded(function: Function, dtype: torch.dtype) -> Function:
    """So that upstream gradients, which take an output's format, are the same numbers in every format."""

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient.to(dtype).to(gradient.dtype)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = function(*inputs)
        return tuple(Round.apply(output) for output in (outputs if isinstance(outputs, tuple) else (outputs,)))

    return call


def _root_mean_square(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def _largest(error: Tensor) -> float:
    return error.abs().max().item()

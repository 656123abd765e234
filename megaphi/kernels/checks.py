"""Bad arguments of the operators as one `ValueError` that names the argument, before any kernel sees them."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
IGNORED = -100
"""Label of a token that is excluded from the loss (torch's `ignore_index`)."""
_LARGEST = 2**31 - 1


def check_float(name: str, tensor: Tensor) -> None:
    """Check for a floating point tensor whose rows and row length each fit in 31 bits (their product need not)."""
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{name} is {tensor.dtype}: expected float32, bfloat16 or float16")
    if tensor.dim() == 0:
        raise ValueError(f"{name} is a single number: expected at least one dimension")
    width = tensor.shape[-1]
    rows = tensor.numel() // width if width else 0
    if width > _LARGEST or rows > _LARGEST:
        raise ValueError(f"{name} has {rows} rows of {width}: at most {_LARGEST} of each are possible")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], *, what: str) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {tuple(shape)}, {what}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Check that two tensors have the same dtype and device."""
    if tensor.dtype != other.dtype:
        raise ValueError(f"{name} is {tensor.dtype} but {other_name} is {other.dtype}: convert one of them")
    if tensor.device != other.device:
        raise ValueError(f"{name} is on {tensor.device} but {other_name} is on {other.device}: move one of them")


def check_range(name: str, tensor: Tensor, *, upper: int, ignored: int | None = None) -> None:
    """Check for integers in [0, upper), or `ignored`.

    Only on the CPU, where looking is free: on a GPU it would synchronise the stream, so the kernels return NaN instead.
    """
    if tensor.dtype != torch.int64:
        raise ValueError(f"{name} is {tensor.dtype}: expected int64")
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = (tensor < 0) | (tensor >= upper)
    if ignored is not None:
        wrong &= tensor != ignored
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        also = "" if ignored is None else f" or {ignored}"
        raise ValueError(f"{name}[{', '.join(map(str, place))}] = {tensor[place].item()}: not in [0, {upper}){also}")

"""A matrix product that adds its weight's gradient to Megatron's fp32 buffer in the product itself.

    y = x W^T + b,   grad_x = grad_y W,   W.main_grad += grad_y^T x

Autograd would make a gradient in the weight's dtype, which in bf16 rounds that of every micro-batch, and Megatron would
add it to the buffer in another pass. Here the buffer is the accumulator of the product; Megatron is told so
(`grad_added_to_main_grad`), and autograd gets zeros that all weights share. A weight without a buffer has an ordinary
gradient. Tensor ranks reduce the input's gradient while they compute the weight's, as in Megatron's own function.

On CPUs a large result takes the memory that an earlier one has left. glibc returns a freed block of more than 32 MB to
the system at once, and when the next step allocates it again the kernel hands out cleared pages one fault at a time:
16,000 for logits of 67 MB. (Told by `mallopt` to keep such blocks, glibc 2.36 does not find them again for an aligned
allocation, as torch's are, and its heap grows.) A result whose gradient was written over it, as our loss and SwiGLU do,
is read by nobody any more: after the product's backward pass its memory is kept for a later product of the same size.
On a GPU torch's allocator keeps what is freed.

Legend: T tokens, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from megaphi.errors import InputError
from megaphi.kernels import definitions
from megaphi.kernels.loading import assert_agree, numbers

Group = distributed.ProcessGroup | None

KEPT_BY_GLIBC = 32 * 2**20
"""Bytes of the largest block that glibc keeps when it is freed."""
_kept: list[Tensor] = []
"""Memory for large results, each a flat tensor that is the whole of it."""
_zeros: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def linear(
    x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, *, reduces: Group = None, gathers: Group = None
) -> Tensor:
    """x W^T + b, [..., I] -> [..., O].

    Args:
        reduces: tensor ranks that hold other rows of the weight; the input's gradient is summed over them.
        gathers: the same, where each has a share of the tokens, cut along the first dimension: the result is that of
            all tokens, and the input's gradient is summed and cut again (sequence parallelism).
    """
    return _Linear.apply(x, weight_OI, bias_O, reduces, gathers)  # pyright: ignore[reportReturnType]


def weight_gradient(weight_OI: Tensor, grad_y: Tensor, x: Tensor) -> Tensor:
    """The gradient of W in x W^T as autograd gets it: zeros, if it could be added to the weight's buffer."""
    grad_TO, x_TI = grad_y.reshape(-1, grad_y.shape[-1]), x.reshape(-1, x.shape[-1])
    total_OI = _buffer_of(weight_OI)
    if total_OI is None:
        return grad_TO.t() @ x_TI
    add_product(total_OI, grad_TO, x_TI)
    return added_up(weight_OI, total_OI)


def sum_for(weight: Tensor) -> Tensor:
    """Tensor to add the weight's gradient to: Megatron's buffer, or zeros in fp32 if there is none."""
    total = _buffer_of(weight)
    return weight.new_zeros(weight.shape, dtype=_summed_in(weight.dtype)) if total is None else total


def added_up(weight: Tensor, total: Tensor) -> Tensor:
    """Gradient for autograd once all of it has been added to `total`, the weight's `sum_for`.

    Zeros, if that is the buffer. Not None: Megatron's hook must run in the thread of the backward pass, which takes a
    gradient. Where a weight is used elsewhere too, as a tied embedding is, autograd adds that gradient to the zeros,
    and Megatron adds the sum.
    """
    if total is not _buffer_of(weight):
        return total.to(weight.dtype)
    weight.grad_added_to_main_grad = True  # pyright: ignore[reportAttributeAccessIssue]
    return _zeros_like(weight)


def _buffer_of(weight: Tensor) -> Tensor | None:
    """Megatron's fp32 sum of the weight's gradients over the micro-batches of a step; None outside training."""
    return getattr(weight, "main_grad", None)


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _zeros_like(weight: Tensor) -> Tensor:
    """A view of the same zeros for every weight: nobody writes them, and nobody keeps them for long."""
    key = (weight.device, weight.dtype)
    if key not in _zeros or _zeros[key].numel() < weight.numel():
        _zeros[key] = weight.new_zeros(weight.numel())
    return _zeros[key][: weight.numel()].view(weight.shape)


def add_product(total_OI: Tensor, grad_TO: Tensor, x_TI: Tensor) -> None:
    """total += grad^T x, summed in the dtype of the total."""
    if total_OI.device.type == "cpu":
        definitions.add_product(total_OI, grad_TO, x_TI)
    else:  # one call of cuBLAS, which reads bf16 and accumulates in the fp32 output
        torch.addmm(total_OI, grad_TO.t(), x_TI, out_dtype=total_OI.dtype, out=total_OI)


def check_product(device: torch.device, dtype: torch.dtype) -> None:
    """Compare `add_product` with fp64, before a training relies on it. Raises InputError.

    Factors are whole numbers, which no mode of a matrix unit rounds; the total is what may not be rounded.
    """
    grad, x = (numbers(5, width, device=device, dtype=dtype, seed=width).round() for width in (37, 19))
    total = numbers(37, 19, device=device, dtype=_summed_in(dtype))
    expected = total.double() + grad.double().t() @ x.double()
    try:
        add_product(total, grad, x)
        assert_agree(total, expected.to(total.dtype))
    except (RuntimeError, ArithmeticError) as error:
        raise InputError(
            f"torch {torch.__version__} does not add a product of {dtype} to {total.dtype} on {device.type}"
            f" ({str(error).splitlines()[0]}): install another version, or use model.kernels=reference"
        ) from error


class _Pending(NamedTuple):
    """A tensor that a collective may still be writing."""

    tensor: Tensor
    work: distributed.Work | None

    def wait(self) -> Tensor:
        if self.work is not None:
            self.work.wait()
        return self.tensor


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, reduces: Group, gathers: Group
    ) -> Tensor:
        ctx.save_for_backward(x if weight_OI.requires_grad else None, weight_OI)
        # The very parameter, which has the buffer: hooks on saved tensors may put another in its place.
        ctx.weight, ctx.has_bias, ctx.reduces, ctx.gathers = weight_OI, bias_O is not None, reduces, gathers
        whole = _gathered(x, gathers).wait()
        y = _product(whole, weight_OI) if bias_O is None else functional.linear(whole, weight_OI, bias_O)
        ctx.memory = memory_of(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y,) = gradients
        x, weight_OI = ctx.saved_tensors
        whole = None if x is None else _gathered(x, ctx.gathers)
        grad_x = _summed(grad_y @ weight_OI, ctx.reduces, ctx.gathers)
        grad_weight = None if whole is None else weight_gradient(ctx.weight, grad_y, whole.wait())
        grad_bias = grad_y.flatten(0, -2).sum(0) if ctx.has_bias else None
        keep_overwritten(ctx.memory, grad_y)
        return grad_x.wait(), grad_weight, grad_bias, None, None


def _gathered(x: Tensor, group: Group) -> _Pending:
    """The tokens of all ranks of `group`."""
    if group is None:
        return _Pending(x, None)
    whole = x.new_empty((group.size() * x.shape[0], *x.shape[1:]))
    return _Pending(whole, distributed.all_gather_into_tensor(whole, x.contiguous(), group=group, async_op=True))


def _summed(grad_x: Tensor, reduces: Group, gathers: Group) -> _Pending:
    """The input's gradient summed over the ranks; of `gathers` each gets that of its own tokens."""
    if gathers is not None:
        own = grad_x.new_empty((grad_x.shape[0] // gathers.size(), *grad_x.shape[1:]))
        return _Pending(own, distributed.reduce_scatter_tensor(own, grad_x, group=gathers, async_op=True))
    return _Pending(grad_x, None if reduces is None else distributed.all_reduce(grad_x, group=reduces, async_op=True))


def _product(x: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T, [..., I] -> [..., O]; in kept memory, if there is any of its size."""
    shape = torch.Size((*x.shape[:-1], len(weight_OI)))
    memory = _take(shape.numel(), x.dtype) if _is_large(x, shape.numel()) else None
    if memory is None:
        return functional.linear(x, weight_OI)
    torch.mm(x.reshape(-1, x.shape[-1]), weight_OI.t(), out=memory.view(-1, len(weight_OI)))
    return memory.view(shape)


def memory_of(result: Tensor) -> StorageWeakRef | None:
    """The memory of a large result on the host, to recognise it by; the reference does not keep it allocated."""
    return StorageWeakRef(result.untyped_storage()) if _is_large(result, result.numel()) else None


def keep_overwritten(memory: StorageWeakRef | None, gradient: Tensor) -> None:
    """Keep the memory of a result if its gradient, which nobody will read again, was written over it."""
    if memory is not None and StorageWeakRef(gradient.untyped_storage()) == memory:
        _kept.append(gradient.new_empty(0).set_(gradient.untyped_storage()))


def _is_large(like: Tensor, size: int) -> bool:
    """True if glibc does not keep a block of `size` numbers on the host. Fake tensors have no memory."""
    is_on_host = like.device.type == "cpu" and type(like) in (Tensor, torch.nn.Parameter)
    return is_on_host and size * like.element_size() > KEPT_BY_GLIBC


def _take(size: int, dtype: torch.dtype) -> Tensor | None:
    """Kept memory for `size` numbers. If there is none, sizes have changed: the oldest block is freed."""
    for place, memory in enumerate(_kept):
        if memory.numel() == size and memory.dtype == dtype:
            return _kept.pop(place)
    del _kept[:1]
    return None

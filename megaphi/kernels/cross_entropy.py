"""Cross-entropy over a vocabulary that tensor parallelism may have sharded, one loss per token.

    loss = lse - logit[label] + z_weight lse^2,   lse = log sum exp over the whole vocabulary
    grad_logits = grad (softmax (1 + 2 z_weight lse) - onehot(label))

Every rank reads its logits once and finds (maximum, sum of exponentials, label's logit) for each token; these three
floats are gathered from all ranks in one call (Megatron needs three all-reduces), and every rank combines them in the
same order, so all get the same bits. The gradient overwrites the logits on request. `linear_cross_entropy` includes the
output matrix and processes the tokens in chunks, forward and backward: the logits of all tokens never exist at once.

Legend: T tokens, V this rank's part of the vocabulary, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as distributed
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from megaphi.kernels import definitions
from megaphi.kernels.checks import IGNORED, check_float, check_like, check_range, check_shape
from megaphi.kernels.linear import add_product, added_up, sum_for
from megaphi.kernels.loading import assert_agree, define, is_compiled, numbers, self_test

Group = distributed.ProcessGroup | None

define("cross_entropy_statistics(Tensor logits, Tensor labels, int first) -> Tensor")
_ARGUMENTS = "Tensor labels, Tensor totals, Tensor grad, int first, int ignored, float z_weight"
define(f"cross_entropy_backward(Tensor logits, {_ARGUMENTS}) -> Tensor")
define(f"cross_entropy_backward_(Tensor(a!) logits, {_ARGUMENTS}) -> ()")
_operators = torch.ops.megaphi


def cross_entropy(
    logits_TV: Tensor,
    labels_T: Tensor,
    *,
    group: Group = None,
    z_weight: float = 0.0,
    in_place: bool = False,
) -> Tensor:
    """fp32 losses [T] in nats; 0 where the label is -100.

    Args:
        logits_TV: This rank's columns: rank r of `group` holds ids [r V, (r + 1) V).
        group: Ranks that share the vocabulary; None if this rank holds all of it.
        z_weight: Weight of lse^2, which keeps logits from drifting (PaLM, section 5); 0 turns it off.
        in_place: Let the gradient overwrite the logits. Any later use of them then fails with autograd's error.

    Raises:
        ValueError: a shape, dtype or device does not fit, or a label is neither -100 nor in the vocabulary (on a GPU
            such a label makes its loss NaN instead).
    """
    check_float("logits", logits_TV)
    if logits_TV.dim() != 2:
        raise ValueError(f"logits has shape {tuple(logits_TV.shape)}: expected [tokens, vocabulary]")
    _check_labels(labels_T, logits_TV.shape[0], logits_TV, vocabulary=logits_TV.shape[1] * _size(group))
    if not is_compiled("cross_entropy", logits_TV):
        return definitions.cross_entropy(logits_TV, labels_T, group=group, z_weight=z_weight)
    return _CrossEntropy.apply(logits_TV.contiguous(), labels_T, group, z_weight, in_place)  # pyright: ignore


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    labels_T: Tensor,
    *,
    group: Group = None,
    vocabulary: int | None = None,
    z_weight: float = 0.0,
    chunk_tokens: int = 1_024,
) -> Tensor:
    """cross_entropy(hidden @ weight^T, labels) with logits of `chunk_tokens` tokens at a time.

    The backward pass recomputes each chunk's logits: a third more work for the output layer. The weight's gradient is
    accumulated over the chunks in fp32, in Megatron's buffer where there is one (linear.py).

    Args:
        vocabulary: Ids from this one on are padding (see `hide_padding`); None if there is no padding.

    Raises:
        ValueError: as `cross_entropy`, or chunk_tokens is not positive.
    """
    check_float("hidden", hidden_TD)
    if hidden_TD.dim() != 2 or weight_VD.dim() != 2:
        raise ValueError(
            f"hidden has shape {tuple(hidden_TD.shape)} and weight {tuple(weight_VD.shape)}: expected [tokens, width] "
            "and [vocabulary, width]"
        )
    check_shape("weight", weight_VD, (weight_VD.shape[0], hidden_TD.shape[1]), what="the width of hidden")
    check_like("weight", weight_VD, "hidden", hidden_TD)
    vocabulary = weight_VD.shape[0] * _size(group) if vocabulary is None else vocabulary
    _check_labels(labels_T, hidden_TD.shape[0], hidden_TD, vocabulary=vocabulary)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens = {chunk_tokens}: must be at least 1")
    if not is_compiled("cross_entropy", hidden_TD):
        return definitions.linear_cross_entropy(
            hidden_TD, weight_VD, labels_T, group=group, vocabulary=vocabulary, z_weight=z_weight
        )
    return _LinearCrossEntropy.apply(  # pyright: ignore[reportReturnType]
        hidden_TD, weight_VD, labels_T, group, vocabulary, z_weight, chunk_tokens
    )


def hide_padding(logits_TV: Tensor, *, vocabulary: int, group: Group) -> Tensor:
    """Set the logits of ids from `vocabulary` on to the lowest finite number of their dtype, in place.

    Its exponential is exactly zero next to any real logit's, so padding does not affect the loss, and its gradient is
    zero. Autograd does not record this: it would copy the whole gradient to zero what is zero already. Not minus
    infinity: a rank that holds nothing but padding would compute infinity minus infinity.
    """
    columns = logits_TV.shape[-1]
    first_hidden = max(vocabulary - _first(columns, group), 0)
    if first_hidden < columns:
        logits_TV.detach()[..., first_hidden:] = torch.finfo(logits_TV.dtype).min
    return logits_TV


def _check_labels(labels_T: Tensor, tokens: int, beside: Tensor, *, vocabulary: int) -> None:
    check_shape("labels", labels_T, (tokens,), what="one label per token")
    if labels_T.device != beside.device:
        raise ValueError(f"labels is on {labels_T.device}: expected {beside.device}")
    check_range("labels", labels_T, upper=vocabulary, ignored=IGNORED)


def _size(group: Group) -> int:
    return 1 if group is None else group.size()


def _first(columns: int, group: Group) -> int:
    """The id of this rank's first column."""
    return 0 if group is None else group.rank() * columns


def _losses(
    statistics_T3: Tensor, labels_T: Tensor, *, vocabulary: int, group: Group, z_weight: float
) -> tuple[Tensor, Tensor]:
    """(losses [T], totals [T, 2]) from every rank's (maximum, sum of exponentials, label's logit).

    Totals are the maximum and the sum over the whole vocabulary; lse is never formed where rounding it would matter.
    """
    if _size(group) > 1:
        assert group is not None
        gathered = statistics_T3.new_empty((group.size() * len(statistics_T3), 3))
        distributed.all_gather_into_tensor(gathered, statistics_T3, group=group)
        ranks_RT3 = gathered.view(group.size(), -1, 3)
    else:
        ranks_RT3 = statistics_T3[None]
    highest_RT, sum_RT, target_RT = ranks_RT3.unbind(-1)
    highest_T = highest_RT.amax(0)
    sum_T = (sum_RT * (highest_RT - highest_T).exp()).sum(0)
    losses_T = (highest_T - target_RT.sum(0)) + sum_T.log()
    if z_weight:
        losses_T = losses_T + z_weight * (highest_T + sum_T.log()).square()
    is_known = (labels_T >= 0) & (labels_T < vocabulary)
    losses_T = torch.where(is_known, losses_T, torch.nan)
    return torch.where(labels_T == IGNORED, 0.0, losses_T), torch.stack((highest_T, sum_T), dim=1)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor, group: Group, z_weight: float, in_place: bool) -> Tensor:
        columns = logits_TV.shape[1]
        statistics = _operators.cross_entropy_statistics(logits_TV, labels_T, _first(columns, group))
        vocabulary = columns * _size(group)
        losses_T, totals_T2 = _losses(statistics, labels_T, vocabulary=vocabulary, group=group, z_weight=z_weight)
        ctx.save_for_backward(logits_TV, labels_T, totals_T2)
        ctx.settings = (_first(columns, group), IGNORED, z_weight)
        ctx.in_place = in_place
        return losses_T

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits_TV, labels_T, totals_T2 = ctx.saved_tensors
        arguments = (labels_T, totals_T2, gradients[0].contiguous(), *ctx.settings)
        if not ctx.in_place:
            return _operators.cross_entropy_backward(logits_TV, *arguments), None, None, None, None
        _operators.cross_entropy_backward_(logits_TV, *arguments)
        torch.autograd.graph.increment_version(logits_TV)  # autograd must notice if the logits were saved elsewhere
        # Without the history of the logits: the returned gradient merely occupies their memory.
        return logits_TV.detach(), None, None, None, None


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        labels_T: Tensor,
        group: Group,
        vocabulary: int,
        z_weight: float,
        chunk_tokens: int,
    ) -> Tensor:
        first = _first(weight_VD.shape[0], group)
        hide = partial(hide_padding, vocabulary=vocabulary, group=group)
        parts = [
            _operators.cross_entropy_statistics(hide(functional.linear(hidden, weight_VD)), labels, first)
            for hidden, labels in zip(hidden_TD.split(chunk_tokens), labels_T.split(chunk_tokens), strict=True)
        ]
        losses_T, totals_T2 = _losses(torch.cat(parts), labels_T, vocabulary=vocabulary, group=group, z_weight=z_weight)
        ctx.save_for_backward(hidden_TD, weight_VD, labels_T, totals_T2)
        ctx.settings = (first, IGNORED, z_weight)
        ctx.hide, ctx.chunk_tokens, ctx.weight = hide, chunk_tokens, weight_VD
        return losses_T

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden_TD, weight_VD, labels_T, totals_T2 = ctx.saved_tensors
        grad_hidden_TD, total_VD = torch.empty_like(hidden_TD), sum_for(ctx.weight)
        tokens = (hidden_TD, labels_T, totals_T2, gradients[0].contiguous(), grad_hidden_TD)
        chunks = zip(*(part.split(ctx.chunk_tokens) for part in tokens), strict=True)
        for hidden, labels, totals, grad, grad_hidden in chunks:
            logits = ctx.hide(functional.linear(hidden, weight_VD))
            _operators.cross_entropy_backward_(logits, labels, totals, grad, *ctx.settings)
            torch.mm(logits, weight_VD, out=grad_hidden)
            add_product(total_VD, logits, hidden)
            del logits  # before the next chunk's exist
        return grad_hidden_TD, added_up(ctx.weight, total_VD), *(None,) * 5


@torch.library.register_fake("megaphi::cross_entropy_statistics")
def _statistics_shapes(logits: Tensor, labels: Tensor, first: int) -> Tensor:
    return definitions.exact(logits[:0]).new_empty((logits.shape[0], 3))


@torch.library.register_fake("megaphi::cross_entropy_backward")
def _backward_shapes(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.register_fake("megaphi::cross_entropy_backward_")
def _no_shapes(logits: Tensor, *_: Any) -> None:
    return None


@self_test("cross_entropy")
def _try_cross_entropy(device: torch.device, dtype: torch.dtype) -> None:
    logits = numbers(3, 37, device=device, dtype=dtype)
    labels = torch.tensor([5, IGNORED, 36], device=device)
    grad = definitions.exact(numbers(3, device=device, dtype=dtype, seed=1))
    with torch.enable_grad():
        wide = logits.double().requires_grad_()
        expected = definitions.cross_entropy(wide, labels, z_weight=0.1)
        (expected_grad,) = torch.autograd.grad(expected, wide, grad.double())
    statistics = _operators.cross_entropy_statistics(logits, labels, 0)
    losses, totals = _losses(statistics, labels, vocabulary=37, group=None, z_weight=0.1)
    assert_agree(losses, expected.detach().to(losses.dtype))
    _operators.cross_entropy_backward_(logits, labels, totals, grad, 0, IGNORED, 0.1)
    assert_agree(logits, expected_grad.to(dtype))

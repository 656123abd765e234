"""The operators that kernels.py compares with their peers, on Phi-4's shapes as tensor parallelism cuts them.

A `Problem` is one operator at one size: the contenders, the inputs each is given, the gradient of its outputs, and the
bytes that have to move whoever computes it. Peers get their inputs in the layout they like best: queries and keys apart
for transformers' rotary, gate and up apart for Liger. One rank's share is computed by itself: nothing is sent.

Legend: B batch, S sequence, T tokens, D width, H heads, G groups, N heads of a group (queries, key, value), K head size
or keys, Q queries, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.rms_norm import add_rms_norm, rms_norm
from megaphi.kernels.rotary import rotary, rotary_table
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from megaphi.kernels.swiglu import swiglu

EPS = 1e-5
GROUPS, QUERIES_OF_A_GROUP, HEAD_SIZE, ROTARY_BASE = 10, 4, 128, 250_000.0
Tensors = tuple[Tensor, ...]
Call = Callable[..., Tensor | Tensors]

TRAFFIC: dict[str, tuple[float, float, str]] = {
    "rms_norm": (2, 3, "[T, D]: x -> y; x, grad_y -> grad_x"),
    "add_rms_norm": (4, 4, "[T, D]: x, residual -> y, sum; sum, grad_y, grad_sum -> grad_x"),
    "rotary": (2, 2, "q and k: read, written; their gradients likewise"),
    "causal_softmax": (1.5, 2, "[H, Q, K]: half of x -> y; halves of y and grad_y -> grad_x"),
    "masked_softmax": (2, 3, "[H, Q, K]: x -> y; y, grad_y -> grad_x (the mask is one for all heads)"),
    "swiglu": (3, 5, "[T, F]: gate, up -> y; gate, up, grad_y -> grad_gate, grad_up"),
    "cross_entropy": (1, 2, "[T, V]: logits -> losses; logits -> grad_logits"),
    "linear_cross_entropy": (1, 2, "[T, D] + [V, D]: hidden, weight -> losses; hidden, weight -> their gradients"),
}
"""Tensors that must at least move in the forward and in the backward pass, every one read or written once."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Work before tensor parallelism cuts it; by default Phi-4's, a micro-batch of one."""

    norm_tokens: int = 4_096
    mlp_tokens: int = 4_096
    loss_tokens: int = 4_096
    linear_tokens: int = 4_096
    heads: int = 40
    positions: int = 4_096
    width: int = 5_120
    feed_forward: int = 17_920
    vocabulary: int = 100_352
    linear_width: int = 5_120


GPU_SIZES = Sizes()
# A matrix product of a 32nd of the tokens and of the width: logits and weight keep their proportion.
CPU_SIZES = Sizes(
    norm_tokens=512, mlp_tokens=256, loss_tokens=64, linear_tokens=128, heads=4, positions=2_048, linear_width=160
)
QUICK_SIZES = Sizes(
    **dict.fromkeys(("norm_tokens", "mlp_tokens", "loss_tokens", "linear_tokens"), 8),
    heads=1,
    positions=64,
    width=256,
    feed_forward=512,
    vocabulary=1_024,
    linear_width=64,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    sizes: Sizes
    tensor_parallel: int
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, dtype=self.dtype, device=self.device).mul_(scale)

    def inputs(self, *shapes: tuple[int, ...]) -> Tensors:
        return tuple(self.normal(*shape).requires_grad_() for shape in shapes)

    def labels(self, tokens: int, vocabulary: int) -> Tensor:
        return torch.randint(vocabulary, (tokens,), device=self.device)


def as_they_are(outputs: Tensors, gradients: Tensors) -> list[Tensor]:
    return [*outputs, *gradients]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to compute an operator."""

    call: Call
    inputs: Tensors
    """Differentiated with respect to all of them; what needs no gradient is inside `call`."""
    grads: Tensors
    overwrites: bool = False
    """Works in place: is given copies of inputs and grads, made outside of what is timed."""
    results: Callable[[Tensors, Tensors], list[Tensor]] = as_they_are
    """(outputs, gradients of inputs) in the form in which contenders are compared."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    shape: str
    unit_elements: int
    """Elements of the tensor that TRAFFIC counts."""
    contenders: dict[str, Contender]


def build(operator: str, setting: Setting) -> Problem:
    """The operator's inputs, the same ones every time, and its contenders without `compile`."""
    torch.manual_seed(1)
    return BUILDERS[operator](setting)


def _liger(name: str, device: torch.device) -> Any | None:
    """A function of Liger-Kernel, or None where that is not installed or has no such function.

    What is done with it below follows its published sources and has not yet been run on a GPU.
    """
    if device.type != "cuda":
        return None
    try:
        return getattr(importlib.import_module("liger_kernel.transformers.functional"), name, None)
    except ImportError:
        return None


# --- norm


def phi3_rms_norm(x: Tensor, weight_D: Tensor) -> Tensor:
    """transformers' Phi3RMSNorm.forward."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return weight_D * wide.to(x.dtype)


def _rms_norm(setting: Setting) -> Problem:
    rows, width = setting.sizes.norm_tokens // setting.tensor_parallel, setting.sizes.width
    inputs, grads = setting.inputs((rows, width), (width,)), (setting.normal(rows, width),)
    calls: dict[str, Call] = {
        "megaphi": lambda x, weight: rms_norm(x, weight, EPS),
        "eager": phi3_rms_norm,
        "torch": lambda x, weight: functional.rms_norm(x, (width,), weight, EPS),
    }
    if liger := _liger("liger_rms_norm", setting.device):
        calls["liger"] = lambda x, weight: liger(x, weight, EPS)
    return _norm_problem(calls, inputs, grads)


def _add_rms_norm(setting: Setting) -> Problem:
    rows, width = setting.sizes.norm_tokens // setting.tensor_parallel, setting.sizes.width
    inputs = setting.inputs((rows, width), (rows, width), (width,))
    grads = (setting.normal(rows, width), setting.normal(rows, width))

    def eager(x: Tensor, residual: Tensor, weight: Tensor) -> Tensors:
        total = x + residual
        return phi3_rms_norm(total, weight), total

    def fused(x: Tensor, residual: Tensor, weight: Tensor) -> Tensors:
        total = x + residual
        return functional.rms_norm(total, (width,), weight, EPS), total

    calls: dict[str, Call] = {
        "megaphi": lambda x, residual, weight: add_rms_norm(x, residual, weight, EPS),
        "eager": eager,
        "torch": fused,
    }
    if liger := _liger("liger_fused_add_rms_norm", setting.device):
        calls["liger"] = lambda x, residual, weight: liger(x, residual, weight, EPS)
    return _norm_problem(calls, inputs, grads)


def _norm_problem(calls: dict[str, Call], inputs: Tensors, grads: Tensors) -> Problem:
    """Liger's gradient overwrites the one it is given."""
    contenders = {
        name: Contender(call=call, inputs=inputs, grads=grads, overwrites=name == "liger")
        for name, call in calls.items()
    }
    rows, width = inputs[0].shape
    return Problem(shape=f"{rows}x{width}", unit_elements=rows * width, contenders=contenders)


# --- rotary positions


def _rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _queries_and_keys(x_SBGNK: Tensor) -> Tensors:
    """(q, k), [B, S, H, K] and [B, S, G, K], out of megaphi's packed product."""
    queries = QUERIES_OF_A_GROUP
    q, k = x_SBGNK[..., :queries, :].flatten(2, 3), x_SBGNK[..., queries : queries + 1, :].flatten(2, 3)
    return q.transpose(0, 1).contiguous(), k.transpose(0, 1).contiguous()


def _rotary(setting: Setting) -> Problem:
    tokens, groups = setting.sizes.norm_tokens, GROUPS // setting.tensor_parallel
    packed, grad_packed = (setting.normal(tokens, 1, groups, QUERIES_OF_A_GROUP + 2, HEAD_SIZE) for _ in range(2))
    cos_PK, sin_PK = rotary_table(tokens, HEAD_SIZE, base=ROTARY_BASE, device=setting.device)
    cos_BSK, sin_BSK = (torch.cat((table, table), dim=-1)[None].to(setting.dtype) for table in (cos_PK, sin_PK))

    def ours(x: Tensor) -> Tensor:
        return rotary(x, cos_PK, sin_PK, rotated=QUERIES_OF_A_GROUP + 1, in_place=True)

    def eager(q_BSHK: Tensor, k_BSGK: Tensor) -> Tensors:
        """transformers' apply_rotary_pos_emb, on the transposed views that its attention makes."""
        cos, sin = cos_BSK.unsqueeze(1), sin_BSK.unsqueeze(1)
        q_BHSK, k_BGSK = q_BSHK.transpose(1, 2), k_BSGK.transpose(1, 2)
        return q_BHSK * cos + _rotate_half(q_BHSK) * sin, k_BGSK * cos + _rotate_half(k_BGSK) * sin

    inputs = tuple(tensor.requires_grad_() for tensor in _queries_and_keys(packed))
    grads = tuple(grad.transpose(1, 2) for grad in _queries_and_keys(grad_packed))
    contenders = {
        "megaphi": Contender(
            call=ours,
            inputs=(packed.requires_grad_(),),
            grads=(grad_packed,),
            overwrites=True,
            results=lambda out, grad: [*_queries_and_keys(out[0]), *_queries_and_keys(grad[0])],
        ),
        "eager": Contender(call=eager, inputs=inputs, grads=grads, results=_transposed),
    }
    if liger := _liger("liger_rope", setting.device):
        contenders["liger"] = Contender(
            call=lambda q, k: liger(q.transpose(1, 2), k.transpose(1, 2), cos_BSK, sin_BSK),
            inputs=inputs,
            grads=grads,
            overwrites=True,
            results=_transposed,
        )
    elements = tokens * groups * (QUERIES_OF_A_GROUP + 1) * HEAD_SIZE
    shape = f"{tokens}x1x{groups}x{QUERIES_OF_A_GROUP + 2}x{HEAD_SIZE}"
    return Problem(shape=shape, unit_elements=elements, contenders=contenders)


def _transposed(outputs: Tensors, gradients: Tensors) -> list[Tensor]:
    return [*(output.transpose(1, 2) for output in outputs), *gradients]


# --- softmax


def _softmax(setting: Setting, *, documents: int) -> Problem:
    """Causal, or with several documents in the sequence, which do not see each other (so a mask is needed)."""
    heads, positions = setting.sizes.heads // setting.tensor_parallel, setting.sizes.positions
    x = setting.normal(1, heads, positions, positions, scale=HEAD_SIZE**0.5).requires_grad_()
    grad, scale = setting.normal(1, heads, positions, positions), HEAD_SIZE**-0.5
    place = torch.arange(positions, device=setting.device)
    document = place * documents // positions
    hidden = ((place[:, None] < place) | (document[:, None] != document))[None, None]
    lowest = torch.finfo(setting.dtype).min
    additive = torch.zeros(hidden.shape, dtype=setting.dtype, device=setting.device).masked_fill_(hidden, lowest)

    def eager(x: Tensor) -> Tensor:
        """Megatron's unfused path: FusedScaleMaskSoftmax.forward_torch_softmax with attention_mask_func."""
        return ((x.float() * scale).masked_fill_(hidden, -10_000.0)).softmax(-1).to(x.dtype)

    def ours(x: Tensor) -> Tensor:
        if documents == 1:
            return causal_softmax(x, scale, in_place=True)
        return masked_softmax(x, hidden, scale, in_place=True)

    def fused(x: Tensor) -> Tensor:
        return functional.softmax(torch.add(additive, x, alpha=scale), -1)

    calls: dict[str, Call] = {"megaphi": ours, "eager": eager, "torch": fused}
    return Problem(
        shape=f"1x{heads}x{positions}x{positions}",
        unit_elements=x.numel(),
        contenders={
            name: Contender(call=call, inputs=(x,), grads=(grad,), overwrites=name == "megaphi")
            for name, call in calls.items()
        },
    )


# --- SwiGLU


def _swiglu(setting: Setting) -> Problem:
    tokens, width = setting.sizes.mlp_tokens, setting.sizes.feed_forward // setting.tensor_parallel
    (x,), grads = setting.inputs((tokens, 2 * width)), (setting.normal(tokens, width),)

    def eager(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate) * up

    contenders = {
        "megaphi": Contender(call=swiglu, inputs=(x,), grads=grads),
        "eager": Contender(call=eager, inputs=(x,), grads=grads),
    }
    if liger := _liger("liger_swiglu", setting.device):
        halves = tuple(half.detach().contiguous().requires_grad_() for half in x.chunk(2, dim=-1))
        contenders["liger"] = Contender(
            call=liger,
            inputs=halves,
            grads=grads,
            overwrites=True,
            results=lambda out, grad: [*out, torch.cat(grad, dim=-1)],
        )
    return Problem(shape=f"{tokens}x{2 * width}", unit_elements=tokens * width, contenders=contenders)


# --- cross-entropy


def unfused_cross_entropy(logits_TV: Tensor, labels_T: Tensor) -> Tensor:
    """Megatron's vocab_parallel_cross_entropy on one rank's columns, its all-reduces left out."""
    wide = logits_TV.float()
    wide = wide - wide.max(dim=-1, keepdim=True)[0]
    predicted = wide.gather(1, labels_T[:, None])[:, 0]
    return wide.exp().sum(dim=-1).log() - predicted


def _summed(outputs: Tensors, gradients: Tensors) -> list[Tensor]:
    """Liger adds up the losses, because that is what it is fastest at."""
    return [outputs[0].sum(), *gradients]


def _losses(calls: dict[str, Call], liger: Call | None, inputs: Tensors, *, in_place: bool) -> dict[str, Contender]:
    """Contenders that give a loss a token, and Liger, which takes both passes' time in the forward one."""
    one = torch.ones((), device=inputs[0].device)
    grads = (one.expand(len(inputs[0])).contiguous(),)
    contenders = {
        name: Contender(
            call=call, inputs=inputs, grads=grads, overwrites=in_place and name == "megaphi", results=_summed
        )
        for name, call in calls.items()
    }
    if liger:
        contenders["liger"] = Contender(call=liger, inputs=inputs, grads=(one,), overwrites=True, results=_summed)
    return contenders


def _cross_entropy(setting: Setting) -> Problem:
    tokens, columns = setting.sizes.loss_tokens, setting.sizes.vocabulary // setting.tensor_parallel
    labels, inputs = setting.labels(tokens, columns), setting.inputs((tokens, columns))
    calls: dict[str, Call] = {
        "megaphi": lambda logits: cross_entropy(logits, labels, in_place=True),
        "eager": lambda logits: unfused_cross_entropy(logits, labels),
        "torch": lambda logits: functional.cross_entropy(logits.float(), labels, reduction="none"),
    }
    function = _liger("liger_cross_entropy", setting.device)
    liger = function and (lambda logits: function(logits, labels, reduction="sum"))
    return Problem(
        shape=f"{tokens}x{columns}",
        unit_elements=tokens * columns,
        contenders=_losses(calls, liger, inputs, in_place=True),
    )


def _linear_cross_entropy(setting: Setting) -> Problem:
    tokens, columns = setting.sizes.linear_tokens, setting.sizes.vocabulary // setting.tensor_parallel
    width, labels = setting.sizes.linear_width, setting.labels(tokens, columns)
    inputs = (setting.normal(tokens, width), setting.normal(columns, width, scale=width**-0.5))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)

    def fused(hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.cross_entropy(functional.linear(hidden, weight).float(), labels, reduction="none")

    calls: dict[str, Call] = {
        "megaphi": lambda hidden, weight: linear_cross_entropy(hidden, weight, labels, chunk_tokens=tokens // 4),
        "eager": lambda hidden, weight: unfused_cross_entropy(functional.linear(hidden, weight), labels),
        "torch": fused,
    }
    function = _liger("liger_fused_linear_cross_entropy", setting.device)
    liger = function and (lambda hidden, weight: function(hidden, weight, labels, reduction="sum"))
    return Problem(
        shape=f"{tokens}x{width}x{columns}",
        unit_elements=(tokens + columns) * width,
        contenders=_losses(calls, liger, inputs, in_place=False),
    )


BUILDERS: dict[str, Callable[[Setting], Problem]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rotary": _rotary,
    "causal_softmax": lambda setting: _softmax(setting, documents=1),
    "masked_softmax": lambda setting: _softmax(setting, documents=4),
    "swiglu": _swiglu,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
}

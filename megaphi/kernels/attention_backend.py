"""The kernel of torch that computes attention (`model.attention_backend`): chosen at the start, tried, and named.

torch chooses by itself, for each call, and says nothing where it falls back to products with all scores in memory. So
the choice is made here, once for a process: the kernel that was named goes first, and before anything is built it
computes a few tokens of the model's own heads, beside the definition. What cannot be is refused with torch's reasons.

Flash attention is the only one that takes parts of any lengths at once (forward/flash_launch.py), and the only one
whose launch costs the same for every shape: cuDNN makes a plan for each, so generation leaves it out.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.nn import attention

from megaphi.errors import InputError

_FLASH, _CUDNN = attention.SDPBackend.FLASH_ATTENTION, attention.SDPBackend.CUDNN_ATTENTION
_EFFICIENT, _MATH = attention.SDPBackend.EFFICIENT_ATTENTION, attention.SDPBackend.MATH
_ORDERS: dict[str, list[attention.SDPBackend]] = {
    "flash": [_FLASH, _EFFICIENT, _MATH],
    "flash3": [_FLASH, _EFFICIENT, _MATH],
    "cudnn": [_CUDNN, _FLASH, _EFFICIENT, _MATH],
    "efficient": [_EFFICIENT, _MATH],
    "math": [_MATH],
}
"""Kernels that torch may use, by name, the preferred first; those after it serve attention with a mask."""
_NAMES = {_FLASH: "flash attention", _CUDNN: "cuDNN", _EFFICIENT: "memory-efficient attention", _MATH: "plain products"}
_UNKNOWN = "torch has no such kernel for it"
_chosen = ExitStack()
TOKENS = 64
"""Tokens of the trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The heads of a model's attention, where and in which numbers it is computed."""

    queries: int
    groups: int
    size: int
    device: torch.device
    dtype: torch.dtype


def choose_backend(name: str, heads: Heads, *, reads: bool) -> str:
    """Let torch use this backend (`model.attention_backend`) from now on, in this process; returns its name in words.

    `reads`: the model is for generation, not for training.

    Raises:
        InputError: this device cannot, and why.
    """
    name = "flash" if reads and name == "cudnn" else name
    _chosen.close()
    _activate_flash3(name)
    order = _ORDERS.get(name, _ORDERS["flash"] if reads else None)
    try:
        used = _tried(heads, None if name == "auto" else _ORDERS[name][0], reads=reads)
    except RuntimeError as error:
        raise _refusal(name, str(error), heads) from None
    if name == "auto" and used is _MATH and heads.device.type == "cuda" and heads.dtype != torch.float32:
        reasons = _reasons(heads)
        raise _refusal("auto", f"only plain products, which keep all scores, are left: {reasons}", heads)
    if order is not None:
        _chosen.enter_context(attention.sdpa_kernel(order, set_priority=True))
    return f"{_NAMES[used]}{' 3' if name == 'flash3' else ''} of torch"


def _activate_flash3(name: str) -> None:
    """Let flash attention 3 stand in for torch's flash attention, or take that back."""
    if name == "flash3":
        try:
            attention.activate_flash_attention_impl("FA3")
        except (ImportError, RuntimeError, AttributeError, ValueError) as error:
            raise InputError(
                f"model.attention_backend=flash3, but flash attention 3 cannot be used: {error}; install its package"
                " flash_attn_interface for this torch, or use model.attention_backend=flash"
            ) from None
    elif attention.current_flash_attention_impl() is not None:
        attention.restore_flash_attention_impl()


def _tried(heads: Heads, backend: attention.SDPBackend | None, *, reads: bool) -> attention.SDPBackend:
    """The backend that computes causal attention of these heads, compared with the definition; None: torch's choice.

    Raises RuntimeError, with torch's reasons.
    """
    query, key, value = (operand.requires_grad_(not reads) for operand in _operands(heads))
    grouped = heads.queries != heads.groups
    with ExitStack() as scope:
        noted = scope.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        if backend is not None:
            scope.enter_context(attention.sdpa_kernel(backend))
        try:
            number = torch.ops.aten._fused_sdp_choice(query, key, value, is_causal=True, enable_gqa=grouped)
            found = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
            if not reads:
                found.sum().backward()
        except RuntimeError as error:
            reasons = [str(item.message) for item in noted] or [_UNKNOWN if "No viable" in str(error) else str(error)]
            raise RuntimeError("; ".join(_first_lines(reasons))) from None
    expected = _by_definition(query.detach(), key.detach(), value.detach())
    difference = (found.detach().float() - expected).abs().max().item()
    if not difference <= (1e-4 if heads.dtype == torch.float32 else 3e-2):
        raise RuntimeError(f"its trial is off by {difference:.3g}")
    return attention.SDPBackend(number)


def _operands(heads: Heads) -> list[Tensor]:
    """Query, key and value [1, heads, TOKENS, head size], numbers that leave every random state alone."""
    found = []
    for seed, count in enumerate((heads.queries, heads.groups, heads.groups)):
        numbers = torch.sin(torch.arange(count * TOKENS * heads.size, dtype=torch.float64) * (seed + 1.7))
        found.append(numbers.view(1, count, TOKENS, heads.size).to(device=heads.device, dtype=heads.dtype))
    return found


def _by_definition(query_BHSK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K)) v in fp32, causal."""
    shared = query_BHSK.shape[1] // key_BGSK.shape[1]
    key_BHSK, value_BHSK = (part.float().repeat_interleave(shared, dim=1) for part in (key_BGSK, value_BGSK))
    scores_BHSS = query_BHSK.float() @ key_BHSK.transpose(2, 3) * query_BHSK.shape[-1] ** -0.5
    hidden_SS = torch.ones(TOKENS, TOKENS, dtype=torch.bool, device=scores_BHSS.device).triu(1)
    return scores_BHSS.masked_fill(hidden_SS, -torch.inf).softmax(-1) @ value_BHSK


def _reasons(heads: Heads) -> str:
    """Reasons why torch uses none of its fused kernels, as it says itself."""
    try:
        _tried(heads, _FLASH, reads=True)
    except RuntimeError as error:
        return str(error)
    return "torch gives no reason"


def _first_lines(texts: list[str]) -> list[str]:
    return [text.splitlines()[0].split(" (Triggered internally")[0].rstrip(". ") for text in texts if text]


def _refusal(name: str, reason: str, heads: Heads) -> InputError:
    where = "a CPU" if heads.device.type == "cpu" else torch.cuda.get_device_name(heads.device)
    others = ", ".join(other for other in ("auto", *_ORDERS) if other != name)
    return InputError(
        f"model.attention_backend={name} cannot compute this model on {where} in"
        f" {str(heads.dtype).removeprefix('torch.')}: {reason}. Use another one ({others})"
    )

"""The time of a training step by part: torch.profiler's kernels, put into groups that the model of a step has too.

A kernel belongs to the first group one of whose words is in its name; the rest is "other", and the longest kernels are
also shown by themselves. Beside a group's time stands the predicted one of the same work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from megaphi.data.batch import Batch

GROUPS = {
    "norms": ("rms_norm",),
    "rotary": ("rotary",),
    "SwiGLU": ("swiglu",),
    "loss": ("cross_entropy", "nll_loss", "log_softmax"),
    "attention": ("flash", "fmha", "attention", "sdpa", "cudnn_generated", "softmax"),
    "communication": ("nccl", "c10d"),
    "optimizer": ("adam", "multi_tensor", "foreach", "norm", "lpnorm"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "::mm", "::addmm", "::bmm", "::matmul", "::linear"),
    "embedding": ("embedding", "index_select", "gather", "scatter"),
    "copies": ("memcpy", "memset", "copy", "fill", "zero", "::cat", "catarray"),
    "elementwise": ("elementwise", "vectorized", "reduce_kernel", "::add", "::mul", "::sum", "::div", "triton"),
}
PREDICTED = {
    "norms": ("norms",),
    "rotary": ("rotary",),
    "SwiGLU": ("SwiGLU",),
    "loss": ("loss",),
    "attention": ("attention",),
    "communication": ("gradients and weights",),
    "optimizer": ("optimizer",),
    "products": ("QKV product", "projection", "FFN up", "FFN down", "output product"),
    "embedding": ("embedding",),
    "elementwise": ("residual addition",),
}
"""Parts of the model of a step that a group holds; the others have none."""
SHOWN_KERNELS = 12


def group_of(kernel: str) -> str:
    """Name of the group that a kernel or operator belongs to."""
    name = kernel.lower()
    return next((group for group, words in GROUPS.items() if any(word in name for word in words)), "other")


def print_profile(
    step: Callable[[Sequence[Batch]], object], batches: Sequence[Batch], *, predicted: Mapping[str, float]
) -> None:
    """Profile one step, and print its groups, beside the predicted seconds by part, and its longest kernels."""
    is_gpu = torch.cuda.get_device_name() != "CPU"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as found:
        step(batches)
    kernels = microseconds_of(found.key_averages(), is_gpu=is_gpu)
    print_groups(kernels, predicted, unit="of the GPU" if is_gpu else "of one processor")


def microseconds_of(averages: Iterable[Any], *, is_gpu: bool) -> Counter[str]:
    """Microseconds by kernel. On a GPU: of what was launched, not of the operators on the CPU that launched it, nor of
    the ranges around it (as that of an optimizer's step), which are events of the GPU too.
    """
    kernels: Counter[str] = Counter()
    for event in averages:
        if not is_gpu:
            kernels[event.key] += int(event.self_cpu_time_total)
        elif event.device_type.name == "CUDA" and not event.is_user_annotation:
            kernels[event.key] += int(event.self_device_time_total)
    return kernels


def print_groups(kernels: Counter[str], predicted: Mapping[str, float], *, unit: str) -> None:
    """Microseconds by kernel as a table by group, then the longest kernels by themselves."""
    groups: Counter[str] = Counter()
    for kernel, microseconds in kernels.items():
        groups[group_of(kernel)] += microseconds
    whole = max(1, groups.total())
    print(f"  profile of one step of two micro-batches, {whole / 1e3:.1f} ms {unit}; on the right the model's")
    for group, microseconds in groups.most_common():
        expected = sum(predicted.get(part, 0.0) for part in PREDICTED.get(group, ()))
        print(f"    {group:<16}{microseconds / 1e3:>10.2f} ms{microseconds / whole:>8.1%}{expected * 1e3:>10.2f} ms")
    print("  the longest kernels")
    for kernel, microseconds in kernels.most_common(SHOWN_KERNELS):
        print(f"    {microseconds / 1e3:>10.2f} ms{microseconds / whole:>8.1%}  {group_of(kernel):<14}{kernel[:70]}")

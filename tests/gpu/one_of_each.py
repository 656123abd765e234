"""One small call of every kernel, forward and backward, on shapes that divide and that do not: for compute-sanitizer.

python -m tests.gpu.one_of_each [--device cpu]
python -m tests.gpu.one_of_each --compiled        fails where an operator ran as its definition in PyTorch
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch
from torch import Tensor

from megaphi.kernels import loading
from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
from megaphi.kernels.embedding import embedding
from megaphi.kernels.linear import check_product
from megaphi.kernels.paged_attention import paged_attention
from megaphi.kernels.rms_norm import add_rms_norm, rms_norm
from megaphi.kernels.rotary import rotary, rotary_table
from megaphi.kernels.softmax import causal_softmax, masked_softmax
from megaphi.kernels.swiglu import swiglu, swiglu_linear
from tests.kernels.exactness import numbers, results

FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def every_operator(dtype: torch.dtype, device: str = "cuda") -> None:
    """Widths 64 (vectors of 16 bytes) and 37 (one element at a time)."""
    labels = torch.tensor([1, -100, 36, 0, 5], device=device)
    check_product(torch.device(device), dtype)
    for width in (64, 37):
        row, weight = (numbers(*shape, dtype=dtype, device=device) for shape in ((5, width), (width,)))
        results(partial(rms_norm, eps=1e-5), [row, weight])
        results(partial(add_rms_norm, eps=1e-5), [row, row * 2, weight])
        results(swiglu, [numbers(5, 2 * width, dtype=dtype, device=device)])
        results(swiglu_linear, [numbers(5, 2 * width, dtype=dtype, device=device), row[:3]])
        scores = numbers(1, 2, 3, width, dtype=dtype, device=device)
        results(partial(causal_softmax, scale=0.7), [scores])
        results(partial(masked_softmax, hidden=scores > 0.5, scale=0.7), [scores])
        results(lambda x: causal_softmax(x * 1, 0.7, in_place=True), [scores])
        results(partial(cross_entropy, labels_T=labels, z_weight=0.1), [row])
        results(lambda x: cross_entropy(x * 1, labels, in_place=True), [row])
        output = numbers(37, width, dtype=dtype, device=device)
        results(partial(linear_cross_entropy, labels_T=labels, chunk_tokens=2), [row, output])
        results(partial(embedding, labels.clamp(min=0)), [output])
        _paged_attention(numbers(5, 4, width, dtype=dtype, device=device))
        _rotary(numbers(3, 2, 2, 4, 2 * width, dtype=dtype, device=device))


def _paged_attention(query: Tensor) -> None:
    keys = numbers(12, 4, 2, query.shape[-1], dtype=query.dtype, device=str(query.device))
    tables = torch.arange(10, dtype=torch.int32, device=query.device).view(5, 2)
    lengths = torch.tensor([1, 3, 4, 5, 8], dtype=torch.int32, device=query.device)
    paged_attention(query, keys, keys * 2, tables, lengths, scale=0.7)


def _rotary(packed: Tensor) -> None:
    cos, sin = rotary_table(9, packed.shape[-1], base=100.0, device=packed.device)
    positions = torch.tensor([[0, 8], [1, 0], [2, 1]], device=packed.device)
    results(lambda x: rotary(x, cos, sin, rotated=3, positions_SB=positions), [packed])
    results(lambda x: rotary(x * 1, cos, sin, rotated=3, offset=4, in_place=True), [packed])


def fallen_back(device: str, formats: tuple[torch.dtype, ...] = FORMATS) -> dict[str, str]:
    """Operators that are not compiled for the device in one of the formats -> the reason."""
    asked = [(name, dtype, loading.why_not(name, device, dtype)) for name in loading.operators() for dtype in formats]
    return {f"{name} ({dtype})": reason for name, dtype, reason in asked if reason is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compiled", action="store_true", help="fail where an operator is not compiled")
    options = parser.parse_args()
    formats = FORMATS if options.device == "cuda" else FORMATS[:2]  # the CPU's kernels have no fp16
    for number_format in formats:
        every_operator(number_format, options.device)
    if options.device == "cuda":
        torch.cuda.synchronize()
    if options.compiled and (reasons := fallen_back(options.device, formats)):
        sys.exit("\n".join(f"{name}: {reason}" for name, reason in reasons.items()))
    print(f"{len(loading.operators())} operators on {options.device}, {len(formats)} number formats")


if __name__ == "__main__":
    main()

"""FLOPs per token, and the share of a device's peak that a run reaches.

Model FLOPs only: 6 per weight that takes part in a matrix product (2 forward, 4 backward) plus attention's
12 x layers x heads x head_size x sequence, halved when the causal half that is never computed is not counted.
Recomputation is not counted. For Phi-4 at 4,096: 94.9 GFLOP per token with full attention, 89.9 causal. A
utilisation is never printed without the count and the peak behind it.
"""

from __future__ import annotations

from typing import Literal

from megaphi.model.architecture import Architecture

AttentionCount = Literal["full", "causal"]

PEAK_BF16_FLOPS = {"NVIDIA H100 80GB HBM3": 989.4e12, "NVIDIA H200": 989.4e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Dense bf16 peak of one device, FLOP/s, by the name that the driver reports (vendor data sheets)."""


def flops_per_token(architecture: Architecture, *, sequence_length: int, attention: AttentionCount = "causal") -> float:
    """Forward and backward FLOPs of one token in a sequence of `sequence_length`."""
    scores = 12 * architecture.layers * architecture.query_width * sequence_length
    return 6 * architecture.matmul_parameters + (scores / 2 if attention == "causal" else scores)


def head_in_layers(architecture: Architecture, *, sequence_length: int) -> float:
    """FLOPs of the output layer over those of one decoder layer, attention counted causal."""
    head = 6 * architecture.vocabulary * architecture.hidden
    decoder = flops_per_token(architecture, sequence_length=sequence_length) - head
    return head / (decoder / architecture.layers)


def explain_utilisation(device_name: str, *, attention: AttentionCount = "causal") -> str:
    """The formula behind a printed MFU, with the count and the peak it uses."""
    peak = PEAK_BF16_FLOPS.get(device_name)
    if peak is None:
        return f"no MFU: the peak of {device_name!r} is not known (metrics.jsonl has teraflops_per_device)"
    return (
        f"MFU = tokens/s x (6 x matmul parameters + {6 if attention == 'causal' else 12} x layers x heads x head size "
        f"x sequence) / (devices x {peak / 1e12:.1f} TFLOP/s dense bf16); attention counted {attention}, no recompute"
    )

"""Rates that a device and its network sustain: the constants of the model of a step, each with its source.

The rates are those that large operations reach, not the data sheet's peaks. None of them was measured by us: they are
assumptions until `benchmarks/mfu.py` has run on a GPU, and flags of that program. Rates are per device and direction.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Sustained rates of one device, per second."""

    name: str
    peak: float
    """FLOP/s of dense bf16 products by the data sheet: the denominator of every MFU."""
    products: float
    """FLOP/s of large bf16 matrix products."""
    attention: float
    """FLOP/s of flash attention, forward and backward; of causal attention only the half that is computed counts."""
    memory: float
    """Bytes read or written by a kernel that is bound by memory."""
    node_bytes: float
    """Bytes of a collective or a message within a node."""
    network_bytes: float
    """Bytes of a collective or a message between nodes; every device has a network card of its own."""
    node_devices: int = 8


H100 = Device(
    name="H100 SXM",
    peak=989.4e12,  # data sheet
    products=740e12,  # assumed: three quarters of the peak, under the power limit of 700 W
    attention=450e12,  # between FlashAttention 2 (328: Azure's AI benchmarking guide) and 3 (up to 740: 2407.08608)
    memory=3.0e12,  # copy 2.90, triad 2.97, dot 3.18 TB/s: Azure's AI benchmarking guide, ND H100 v5
    node_bytes=350e9,  # of the 450 GB/s per direction of NVLink 4; assumed for collectives of some ten megabytes
    network_bytes=45e9,  # of a card's 400 Gb/s, which are 50 GB/s; assumed
)
H200 = Device(
    name="H200 SXM",
    peak=H100.peak,
    products=H100.products,
    attention=H100.attention,
    memory=4.1e12,  # copy 4.01, triad 4.18 TB/s: Azure's AI benchmarking guide, ND H200 v5
    node_bytes=H100.node_bytes,
    network_bytes=H100.network_bytes,
)
DEVICES = {"h100": H100, "h200": H200}


def group_rate(device: Device, *, ranks: int, stride: int) -> float:
    """Bytes per second and rank of a collective of `ranks` ranks that lie `stride` apart.

    A ring enters and leaves each node through the cards of all ranks of the group that lie there, so a group with
    eight ranks per node has the bandwidth of eight cards.
    """
    if ranks * stride <= device.node_devices:
        return device.node_bytes
    within_a_node = max(1, device.node_devices // stride)
    return min(device.node_bytes, within_a_node * device.network_bytes)

"""Rates that a device and its network sustain: the constants of the model of a step, each with its source.

The rates are those that large operations reach, not the data sheet's peaks. None of them was measured by us: they are
assumptions until `benchmarks/mfu.py` has run on a GPU, and flags of that program. Rates are per device and direction.

A product runs below its large one's rate for three reasons, which are those of every tiled kernel: the last wave of
tiles leaves multiprocessors idle, the result is written when nothing is multiplied any more, and a launch takes time.
With the memory's rate as below this gives cuBLASLt's FP8 products on an H100 (Azure's guide: random data, 10,000
products before the first measured one) within 2 % from 4,096 cubed on and 3 % at 2,048 cubed
(tests/planning/test_step_time.py). The bf16 rate is the one that gives SemiAnalysis' 720 TFLOP/s at 8,192 cubed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16", "fp8"]
"""Format of a product's operands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Sustained rates of one device, per second."""

    name: str
    peak: float
    """FLOP/s of dense bf16 products by the data sheet: the denominator of every MFU."""
    products: float
    """FLOP/s of bf16 matrix products without end: their size costs what `product_seconds` adds."""
    products_fp8: float | None = None
    """The same of FP8 products; none: the device has none."""
    attention: float
    """FLOP/s of flash attention, forward and backward; of causal attention only the half that is computed counts."""
    memory: float
    """Bytes read or written by a kernel that is bound by memory."""
    node_bytes: float
    """Bytes of a collective or a message within a node."""
    network_bytes: float
    """Bytes of a collective or a message between nodes; every device has a network card of its own."""
    node_devices: int = 8
    multiprocessors: int
    tile: tuple[int, int] = (128, 256)
    """Rows and columns of a result that a multiprocessor computes at a time."""
    launch_seconds: float = 2e-6
    """Start of a product; from the 2,048 cubed one of Azure's guide."""
    memory_gigabytes: float
    """Size of the memory, in 10^9 bytes."""
    watts: float
    """The power limit of the data sheet."""


H100 = Device(
    name="H100 SXM",
    peak=989.4e12,  # data sheet
    products=767e12,  # 720 at 8,192 cubed with random data: SemiAnalysis, "MI300X vs H100 vs H200", 2024
    products_fp8=1_420e12,  # 1,290 at 8,192 cubed: Azure's AI benchmarking guide, ND H100 v5
    attention=450e12,  # between FlashAttention 2 (328: Azure's AI benchmarking guide) and 3 (up to 740: 2407.08608)
    memory=3.0e12,  # copy 2.90, triad 2.97, dot 3.18 TB/s: Azure's AI benchmarking guide, ND H100 v5
    node_bytes=350e9,  # NCCL's bus bandwidth is 296 GB/s at 33 MB, 362 at 67 MB, 423 at 268 MB: the same guide
    network_bytes=45e9,  # of a card's 400 Gb/s, which are 50 GB/s; assumed
    multiprocessors=132,
    memory_gigabytes=80.0,
    watts=700.0,
)
H200 = Device(
    name="H200 SXM",
    peak=H100.peak,
    products=H100.products,
    products_fp8=H100.products_fp8,  # 1,301 at 8,192 cubed: Azure's AI benchmarking guide, ND H200 v5
    attention=H100.attention,
    memory=4.1e12,  # copy 4.01, triad 4.15 TB/s: Azure's AI benchmarking guide, ND H200 v5
    node_bytes=H100.node_bytes,
    network_bytes=H100.network_bytes,
    multiprocessors=132,
    memory_gigabytes=141.0,
    watts=700.0,
)
A100 = Device(
    name="A100 SXM 80 GB",
    peak=312e12,  # data sheet
    products=259e12,  # 253.7 at 8,192 cubed in fp16: Azure's AI benchmarking guide, ND A100 v4
    attention=180e12,  # FlashAttention 2 at a head size of 64: the same guide
    memory=1.65e12,  # copy 1.61, triad 1.70 TB/s: the same guide
    node_bytes=167e9,  # NCCL's bus bandwidth at 67 MB: the same guide
    network_bytes=22e9,  # of a card's 200 Gb/s; assumed
    multiprocessors=108,
    memory_gigabytes=80.0,
    watts=400.0,
)
B200 = Device(
    name="B200 SXM",
    peak=2_250e12,  # data sheet
    products=1_745e12,  # the best shape found: ml-engineering's table of achievable products; long runs may be slower
    products_fp8=3_432e12,  # the same table
    attention=900e12,  # assumed: as much of the peak as an H100's
    memory=7.2e12,  # assumed: nine tenths of the data sheet's 8 TB/s, as an H100's
    node_bytes=550e9,  # NCCL's bus bandwidth at 67 MB on GB200: Azure's AI benchmarking guide
    network_bytes=45e9,  # of a card's 400 Gb/s; assumed
    multiprocessors=148,
    memory_gigabytes=180.0,
    watts=1_000.0,
)
DEVICES = {"h100": H100, "h200": H200, "a100": A100, "b200": B200}


def device_named(name: str) -> Device | None:
    """The device with the name that its driver gives; None if it is not in the table."""
    return next((device for key, device in DEVICES.items() if key.upper() in name.upper()), None)


def product_seconds(
    device: Device,
    *,
    rows: int,
    inner: int,
    columns: int,
    result_bytes: float = 2,
    precision: Precision = "bf16",
) -> float:
    """Time of (rows x inner) by (inner x columns); `result_bytes` are moved for every number of the result."""
    rate = device.products if precision == "bf16" else device.products_fp8
    assert rate is not None, f"{device.name} has no FP8 products"
    tiles = math.ceil(rows / device.tile[0]) * math.ceil(columns / device.tile[1])
    waves = tiles / device.multiprocessors
    idle = math.ceil(waves) / waves
    written = rows * columns * result_bytes / device.memory
    return 2.0 * rows * inner * columns / rate * idle + written + device.launch_seconds


def group_rate(device: Device, *, ranks: int, stride: int) -> float:
    """Bytes per second and rank of a collective of `ranks` ranks that lie `stride` apart.

    A ring enters and leaves each node through the cards of all ranks of the group that lie there, so a group with
    eight ranks per node has the bandwidth of eight cards.
    """
    if ranks * stride <= device.node_devices:
        return device.node_bytes
    within_a_node = max(1, device.node_devices // stride)
    return min(device.node_bytes, within_a_node * device.network_bytes)

"""All-reduce between the devices of a node: bytes per second, as NCCL's tests count them.

    python -m megaphi.planning.node.bandwidth RESULT     as every rank of a job; rank 0 writes the figure

The bus bandwidth of a ring, 2 (n - 1) / n times the bytes over the time, is to be compared with the links' rate. The
median of several passes counts. On a CPU the same runs over gloo, where no rate is expected.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from megaphi.files import read_json, write_text
from megaphi.planning.node.finding import Finding
from megaphi.planning.step.device import device_named

BYTES_ON_GPU, BYTES_ON_CPU = 1 << 30, 1 << 24
WARM_UP, PASSES = 3, 10
LEAST_SHARE = 0.8
"""Share of the rate that the planner assumes, below which a node fails."""


def check_bandwidth(processes: int) -> Finding:
    """Start so many ranks on this node and let them add up."""
    from megaphi.parallel.launcher import start_processes

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        code = start_processes(
            [sys.executable, "-m", "megaphi.planning.node.bandwidth", str(result)], processes=processes
        )
        if code:
            return Finding(check="all-reduce", found=f"failed with code {code} (above)", verdict="FAIL")
        found = read_json(result, what="result of the all-reduce")
    return judged(found["bytes_per_second"], device=found["device"], processes=processes)


def judged(bytes_per_second: float, *, device: str, processes: int) -> Finding:
    """A figure beside the rate that the planner assumes for such a device."""
    found = f"{bytes_per_second / 1e9:.1f} GB/s between {processes} x {device}"
    known = device_named(device)
    if known is None:
        return Finding(check="all-reduce", found=f"{found}; no rate is known to compare with")
    least = LEAST_SHARE * known.node_bytes
    is_slow = bytes_per_second < least
    return Finding(
        check="all-reduce",
        found=f"{found}; at least {least / 1e9:.0f} expected",
        verdict="FAIL" if is_slow else "ok",
    )


def main(result: str) -> None:
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if gpu else "gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if gpu:
        torch.cuda.set_device(rank)
    size = BYTES_ON_GPU if gpu else BYTES_ON_CPU
    numbers = torch.zeros(size // 4, device="cuda" if gpu else "cpu")
    seconds = []
    for _ in range(WARM_UP + PASSES):
        distributed.barrier()
        began = time.perf_counter()
        distributed.all_reduce(numbers)
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        rate = 2 * (ranks - 1) / ranks * size / statistics.median(seconds[WARM_UP:])
        name = torch.cuda.get_device_name() if gpu else "CPU"
        write_text(result, json.dumps({"bytes_per_second": rate, "device": name}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

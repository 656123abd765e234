"""Speed of a training step at the 14B's width: predicted by a model of the step.

python benchmarks/mfu.py --model                            layouts of the 14B, and published runs
python benchmarks/mfu.py --model --products-tflops 640      with another assumption
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the files beside this one, by their full name

from benchmarks.mfu_model import print_assumptions, print_layouts, print_published
from megaphi.planning.step.device import DEVICES, Device


def main() -> None:
    options = parse()
    device = assumed_device(options)
    print_assumptions(device)
    print_layouts(device, devices=options.devices)
    print_published(device)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true", required=True, help="predict; measures nothing")
    parser.add_argument("--devices", type=int, default=512, help="of the predicted layouts (default: 512)")
    parser.add_argument("--device", choices=DEVICES, default="h100", help="whose rates are assumed (default: h100)")
    parser.add_argument("--products-tflops", type=float, help="sustained in large bf16 matrix products")
    parser.add_argument("--attention-tflops", type=float, help="sustained in flash attention")
    parser.add_argument("--memory-terabytes", type=float, help="per second, of kernels that are bound by memory")
    parser.add_argument("--node-gigabytes", type=float, help="per second and device within a node (NVLink)")
    parser.add_argument("--network-gigabytes", type=float, help="per second and device between nodes (InfiniBand)")
    return parser.parse_args()


def assumed_device(options: argparse.Namespace) -> Device:
    """The device's table, with the rates that were given."""
    given = {
        "products": (options.products_tflops, 1e12),
        "attention": (options.attention_tflops, 1e12),
        "memory": (options.memory_terabytes, 1e12),
        "node_bytes": (options.node_gigabytes, 1e9),
        "network_bytes": (options.network_gigabytes, 1e9),
    }
    return replace(
        DEVICES[options.device], **{name: value * unit for name, (value, unit) in given.items() if value is not None}
    )


if __name__ == "__main__":
    main()

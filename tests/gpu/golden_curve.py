"""The golden curve of one process, in fp32 without TF32, on the GPU or wherever this runs: fused and reference kernels.

A GPU adds in another order than a CPU, so it may differ by TOLERANCE. Fails where it differs by more.

    python -m tests.gpu.golden_curve [fused|reference ...]
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, tiny_run, train

CURVE = np.loadtxt(Path(__file__).parents[1] / "golden" / "tiny_pretrain.txt")
"""[steps, 2]: loss and gradient norm."""
TOLERANCE = 1e-4


def largest_difference(kernels: str) -> float:
    """Distance of losses and gradient norms from the golden ones. Needs a process that is in no world yet."""
    run = tiny_run(layout=ParallelLayout(), model=dataclasses.replace(TINY, kernels=kernels))
    found = train(run, steps=len(CURVE))
    curve = np.stack((found["losses"], found["norms"]), axis=1)
    return float(np.abs(curve - CURVE).max())


def main(names: list[str]) -> None:
    differences = {name: largest_difference(name) for name in names}
    for name, difference in differences.items():
        print(f"{name}: at most {difference:.2e} from the golden curve in {len(CURVE)} steps, allowed {TOLERANCE:g}")
    if not max(differences.values()) <= TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:] or ["fused", "reference"])

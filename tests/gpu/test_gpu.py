"""Tests that need a CUDA device: every operator compiled, no bad memory access, the golden curve. `make test-gpu`

The kernel tests (tests/kernels) run on the GPU too, with the same assertions. Not yet run on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from tests.gloo_world import run_on_gpu
from tests.gpu.golden_curve import TOLERANCE, largest_difference
from tests.gpu.one_of_each import FORMATS, every_operator, fallen_back
from tests.test_house import ROOT

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_no_operator_falls_back(dtype: torch.dtype) -> None:
    every_operator(dtype)
    assert fallen_back("cuda", (dtype,)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_the_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    command = [sanitizer, f"--tool={tool}", "--error-exitcode=9", "--kernel-regex=kns=megaphi"]
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.gpu.one_of_each"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_the_golden_curve_on_a_gpu(kernels: str) -> None:
    """fp32 without TF32, where a GPU adds in another order than a CPU."""
    assert run_on_gpu(largest_difference, kernels) <= TOLERANCE

"""A conversion's peak memory, as the kernel counts it, is below its ceiling and does not grow with the model."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megaphi.conversion.formats.streaming import MEMORY_CEILING_BYTES
from megaphi.model.architecture import Architecture
from tests.conversion.random_models import random_folder

SMALL = Architecture(
    layers=2, hidden=1_024, feed_forward=2_816, heads=16, key_value_groups=4, head_size=64, vocabulary=20_480
)
"""67 million parameters, 0.13 GB; the other model has four times as many bytes."""
MEASURED = """
import sys
import megaphi.conversion.to_checkpoint
import megaphi.conversion.to_huggingface
from megaphi.cli import main
def kibibytes(field):
    return next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]
imports = kibibytes("VmHWM")
code = main(sys.argv[1:])
print("imports", imports, "peak", kibibytes("VmHWM"))
sys.exit(code)
"""


def peak_over_imports(*words: str) -> int:
    """Bytes that a command took at its peak, beyond what its imports had taken."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "convert", *words],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    match = re.search(r"imports (\d+) peak (\d+)", done.stdout)
    assert match, done.stdout
    return (int(match[2]) - int(match[1])) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel must count a process's peak (Linux)")
def test_four_times_the_model_takes_no_more_memory(tmp_path: Path) -> None:
    peaks: dict[str, list[int]] = {"to-checkpoint": [], "to-huggingface": []}
    for times in (1, 4):
        model = dataclasses.replace(SMALL, vocabulary=SMALL.vocabulary * times, layers=SMALL.layers * times)
        tensors = random_folder(tmp_path / "hf", model, dtype=torch.bfloat16)
        size = sum(tensor.nbytes for tensor in tensors.values())
        del tensors
        hf, checkpoint, back = (str(tmp_path / name) for name in ("hf", "checkpoint", "back"))
        peaks["to-checkpoint"].append(peak_over_imports("to-checkpoint", hf, checkpoint, "--tensor", "2"))
        peaks["to-huggingface"].append(peak_over_imports("to-huggingface", checkpoint, back, "--no-tokenizer"))
        if times == 4:
            assert size > MEMORY_CEILING_BYTES  # else the ceiling would prove nothing
        for folder in (hf, checkpoint, back):
            shutil.rmtree(folder)
    for direction, (small, large) in peaks.items():
        assert max(small, large) < MEMORY_CEILING_BYTES, direction
        assert large < small + (32 << 20), f"{direction}: {small:,} bytes, and {large:,} for four times the model"

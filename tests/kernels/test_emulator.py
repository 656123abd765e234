"""The emulator of tests/kernels/emulator finds what it is there to find."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.emulated_cuda import EMULATOR, FLAGS

SOURCE = """
#include "cuda_bf16.h"
#include "cuda_fp16.h"

// Every thread tells its mirror image its number, through memory or by shuffles.
void mirror(float* out, bool has_barrier) {
  __shared__ float told[64];
  told[threadIdx.x] = threadIdx.x + 64 * blockIdx.x;
  if (has_barrier) __syncthreads();
  out[64 * blockIdx.x + threadIdx.x] = told[63 - threadIdx.x];
}
void shuffle(float* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, threadIdx.x, 31); }
void diverge(float*) {
  if (threadIdx.x % 2) __syncthreads(); else __shfl_xor_sync(0xffffffffu, 0, 1);
}

extern "C" void run_mirror(float* out, bool has_barrier) { emulate(mirror, dim3(8), dim3(64), out, has_barrier); }
extern "C" void run_shuffle(float* out) { emulate(shuffle, dim3(1), dim3(64), out); }
extern "C" void run_diverge() { emulate(diverge, dim3(1), dim3(64), nullptr); }
extern "C" void to_bf16(const float* from, uint16_t* to, int n) {
  for (int i = 0; i < n; i++) to[i] = __float2bfloat16_rn(from[i]).bits;
}
extern "C" void to_fp16(const float* from, uint16_t* to, int n) {
  for (int i = 0; i < n; i++) to[i] = __float2half_rn(from[i]).bits;
}
extern "C" void from_fp16(const uint16_t* from, float* to, int n) {
  for (int i = 0; i < n; i++) to[i] = __half2float({from[i]});
}
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emulator")
    (folder / "probe.cpp").write_text(SOURCE)
    target = folder / "probe.so"
    sources = [str(folder / "probe.cpp"), str(EMULATOR / "emulator.cpp")]
    subprocess.run(["c++", *FLAGS, "-shared", f"-I{EMULATOR}", *sources, "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="module")
def probe(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def test_a_missing_barrier_becomes_wrong_numbers(probe: ctypes.CDLL) -> None:
    expected = torch.arange(512.0).view(8, 64).flip(1).flatten()
    for has_barrier in (True, False):
        found = torch.zeros(512)
        probe.run_mirror(ctypes.c_void_p(found.data_ptr()), has_barrier)
        assert torch.equal(found, expected) == has_barrier


def test_a_shuffle_crosses_its_warp(probe: ctypes.CDLL) -> None:
    found = torch.zeros(64)
    probe.run_shuffle(ctypes.c_void_p(found.data_ptr()))
    assert torch.equal(found, torch.arange(64.0).view(2, 32).flip(1).flatten())


def test_threads_that_wait_at_different_places_end_the_process(path: Path) -> None:
    program = f"import ctypes; ctypes.CDLL({str(path)!r}).run_diverge()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "wait for each other at different places" in done.stderr


def test_number_formats_are_torchs(probe: ctypes.CDLL) -> None:
    """Every fp16 number, and floats around every one of them and of the bf16 numbers, ties included."""
    patterns = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    widened = torch.zeros(len(patterns))
    probe.from_fp16(ctypes.c_void_p(patterns.data_ptr()), ctypes.c_void_p(widened.data_ptr()), len(patterns))
    torch.testing.assert_close(widened, patterns.view(torch.float16).float(), rtol=0, atol=0, equal_nan=True)
    for dtype, convert in ((torch.float16, probe.to_fp16), (torch.bfloat16, probe.to_bf16)):
        bits = patterns.view(dtype).float().view(torch.int32)
        half = 1 << (12 if dtype == torch.float16 else 15)
        values = torch.cat([bits + step for step in (0, half - 1, half, half + 1)]).view(torch.float32)
        values = values[~values.isnan()]
        found = torch.zeros(len(values), dtype=torch.int16)
        convert(ctypes.c_void_p(values.data_ptr()), ctypes.c_void_p(found.data_ptr()), len(values))
        assert torch.equal(found, values.to(dtype).view(torch.int16))

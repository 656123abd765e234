"""Kernel tests run on the CPU with each instruction set that this processor has, on the CUDA kernels in an emulator,
and on a GPU where there is one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

from megaphi import _C as kernels  # noqa: N811
from tests.kernels.emulated_cuda import built, in_place_of_the_cpu_kernels

CPU = [f"cpu-{name}" for name in kernels.instruction_sets()]


@pytest.fixture(scope="session")
def emulated_cuda() -> ctypes.CDLL:
    return built()


@pytest.fixture(
    params=[*CPU, pytest.param("emulated-cuda", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    kind, _, instruction_set = request.param.partition("-")
    if kind == "emulated":
        with in_place_of_the_cpu_kernels(request.getfixturevalue("emulated_cuda")):
            yield "cpu"
        return
    usual = kernels.instruction_set()
    if kind == "cpu":
        assert kernels.use_instruction_set(instruction_set)
    yield kind
    assert kernels.use_instruction_set(usual)

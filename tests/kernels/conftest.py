"""Kernel tests run on the CPU with each instruction set that this processor has, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from megaphi import _C as kernels  # noqa: N811

CPU = [f"cpu-{name}" for name in kernels.instruction_sets()]


@pytest.fixture(params=[*CPU, pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    kind, _, instruction_set = request.param.partition("-")
    usual = kernels.instruction_set()
    if kind == "cpu":
        assert kernels.use_instruction_set(instruction_set)
    yield kind
    assert kernels.use_instruction_set(usual)

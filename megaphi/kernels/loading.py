"""Load the compiled kernels on first use, test them, and decide which operators run on them.

`megaphi._C` holds the kernels, `megaphi._T` binds them to torch. Before the first use of an operator on a device type
and dtype it is compared with its definition in PyTorch (`definitions.py`) on a few numbers. A kernel that is not
compiled, does not load or computes something else is not used. On a CPU its definition is used instead, and one warning
names the operator and the reason: a model runs however megaphi was installed. On a GPU, where this could silently cost
days, it is refused unless it was allowed by name (`model.allow_slow_operators`).
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from megaphi.errors import InputError
from megaphi.log import logger

library = torch.library.Library("megaphi", "DEF")
"""Every operator file defines its schemas here; `_T` brings the implementations."""

SelfTest = Callable[[torch.device, torch.dtype], None]
_self_tests: dict[str, SelfTest] = {}
_verdicts: dict[tuple[str, str, torch.dtype], str | None] = {}
_allowed: set[str] = set()

_REINSTALL = "pip install --force-reinstall --no-deps --no-build-isolation megaphi"


def define(schema: str) -> None:
    """Declare an operator of the namespace `megaphi`."""
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def self_test(operator: str) -> Callable[[SelfTest], SelfTest]:
    """Register how an operator is compared with its definition; the function raises where they differ."""

    def register(function: SelfTest) -> SelfTest:
        _self_tests[operator] = function
        return function

    return register


def is_compiled(operator: str, tensor: Tensor) -> bool:
    """Return whether to use the compiled operator on tensors like this one; loads and tests it at the first call."""
    return _is_usable(operator, tensor.device.type, tensor.dtype)


@torch.compiler.assume_constant_result
def _is_usable(operator: str, device_type: str, dtype: torch.dtype) -> bool:
    reason = why_not(operator, device_type, dtype)
    if reason is not None and device_type == "cuda" and operator not in _allowed:
        raise InputError(
            f"kernel {operator} ({device_type}, {dtype}) cannot be used: {reason}. On a GPU PyTorch's slower"
            f" operators do not take its place unasked: fix it, allow it by model.allow_slow_operators={operator}"
            f" (generate, chat, serve: --allow-slow-operators {operator}), or run on the CPU:"
            " CUDA_VISIBLE_DEVICES= megaphi ..."
        )
    return reason is None


def allow_slow(names: Iterable[str]) -> None:
    """Allow the definitions of these operators to be used on a GPU, too, from now on and in this process."""
    _allowed.update(names)


def require(names: Iterable[str], device: torch.device, dtype: torch.dtype) -> None:
    """Test operators before they are needed. Raises InputError for one that cannot be used."""
    for name in names:
        _is_usable(name, device.type, dtype)


def why_not(operator: str, device_type: str, dtype: torch.dtype) -> str | None:
    """None if the compiled operator is used, else the reason for using its definition."""
    if device_type == "meta":
        return None  # shapes only
    key = (operator, device_type, dtype)
    if key not in _verdicts:
        _verdicts[key] = _load() or _try(operator, torch.device(device_type), dtype)
        if _verdicts[key] is not None and _load() is None:
            logger.warning("kernel %s (%s, %s) is not used: %s", *key, _verdicts[key])
    return _verdicts[key]


@cache
def _load() -> str | None:
    """Load both libraries once; returns the reason if that is not possible."""
    try:
        kernels = importlib.import_module("megaphi._C")
        path = Path(__file__).parents[1] / f"_T{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not path.is_file():
            raise OSError(f"megaphi was built without torch's headers, or its compiler failed: {_REINSTALL}")
        torch.ops.load_library(path)
        ctypes.CDLL(str(path)).megaphi_attach(ctypes.c_void_p(kernels.attachment))
    except ImportError:
        reason = f"megaphi was installed without its compiled part: install a C++ compiler, then {_REINSTALL}"
    except (OSError, AttributeError) as error:
        reason = str(error).splitlines()[0]
    else:
        return None
    logger.warning("fused kernels are not available, PyTorch's operators are used for all: %s", reason)
    return reason


def _try(operator: str, device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        # Inside torch.compile, or under torch.device("meta"), the self-test still needs real tensors.
        with _disable_current_modes(), torch.no_grad():
            _self_tests[operator](device, dtype)
    except Exception as error:
        # torch prefixes the message with the location in our C++ source.
        return re.sub(r"^\w+, \S+:\d+, ", "", str(error).splitlines()[0]) or type(error).__name__
    return None


def assert_agree(compiled: Tensor, defined: Tensor) -> None:
    """Raise, with the size of the difference, unless two results agree up to rounding; a NaN never agrees."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(defined.dtype, 2e-2)
    difference = (compiled.double() - defined.double()).abs().max().item() if defined.numel() else 0.0
    allowed = tolerance * max(1.0, defined.double().abs().max().item() if defined.numel() else 0.0)
    if not difference <= allowed:
        raise ArithmeticError(f"the self-test is off by {difference:.3g}, allowed is {allowed:.3g}")


def numbers(*shape: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers for self-tests, between -2 and 2, that leave every random state alone."""
    count = torch.Size(shape).numel()
    values = torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * (seed + 1.7)) * 2
    return values.reshape(shape).to(device=device, dtype=dtype)


def instruction_set() -> str | None:
    """Instruction set of the CPU kernels (avx512, avx2, base), or None where there are none."""
    return importlib.import_module("megaphi._C").instruction_set() if _load() is None else None


def operators() -> tuple[str, ...]:
    """Names of all operators that can be compiled, provided their files were imported."""
    return tuple(_self_tests)

"""The compiled part of the data path, `megaphi._C`, imported when it is first needed.

Without it there is no order, no reading and no index: one message tells how to install it. Numbers are passed as
contiguous int64; `whole_numbers` converts what a caller has, and refuses to round.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megaphi.errors import InputError


@cache
def compiled() -> ModuleType:
    """The module `megaphi._C`.

    Raises:
        InputError: it is not there, or was built for another Python.
    """
    try:
        return importlib.import_module("megaphi._C")
    except ImportError as error:
        raise InputError(
            f"megaphi was installed without its compiled part ({error}): install a C++ compiler, then"
            " pip install --force-reinstall --no-deps --no-build-isolation megaphi"
        ) from error


def whole_numbers(values: ArrayLike) -> NDArray[np.int64]:
    """`values` (integers, any shape) as a contiguous int64 array; values beyond int64 become negative."""
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"whole numbers are needed here, not {given.dtype}")
    return np.asarray(given, dtype=np.int64, order="C")

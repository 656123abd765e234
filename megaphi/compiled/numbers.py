"""Numbers for the compiled part: contiguous int64. What a caller has is converted, and never rounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def whole_numbers(values: ArrayLike) -> NDArray[np.int64]:
    """`values` (integers, any shape) as a contiguous int64 array; values beyond int64 become negative."""
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"whole numbers are needed here, not {given.dtype}")
    return np.asarray(given, dtype=np.int64, order="C")

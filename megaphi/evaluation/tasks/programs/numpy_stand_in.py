"""Tests that import NumPy only to compare floats, made to run where there is no NumPy, as in the sandbox.

HumanEval+ compares with `numpy.allclose` or `numpy.testing.assert_allclose`. The import is replaced by a class with
those two, which follow NumPy's rule |found - expected| <= atol + rtol |expected|, element by element.
"""

from __future__ import annotations

import re

IMPORT = re.compile(r"^import numpy as np[ \t]*$", re.MULTILINE)
STAND_IN = """
class np:
    ndarray = ()
    float32 = float64 = float

    @staticmethod
    def allclose(found, expected, rtol=1e-05, atol=1e-08):
        if isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple)):
            return len(found) == len(expected) and all(
                np.allclose(one, other, rtol, atol) for one, other in zip(found, expected)
            )
        if isinstance(found, (list, tuple)):
            return all(np.allclose(one, expected, rtol, atol) for one in found)
        if isinstance(expected, (list, tuple)):
            return all(np.allclose(found, other, rtol, atol) for other in expected)
        if not isinstance(found, (int, float, complex)):
            return False
        return found == expected or abs(found - expected) <= atol + rtol * abs(expected) < float("inf")

    class testing:
        @staticmethod
        def assert_allclose(found, expected, rtol=1e-07, atol=0):
            assert np.allclose(found, expected, rtol, atol)
"""


def without_numpy(tests: str) -> str:
    """The tests with the stand-in for their import of NumPy; as they are if they use anything else of it."""
    used = set(re.findall(r"\bnp\.(testing\.\w+|\w+)", tests))
    if used - {"allclose", "testing.assert_allclose", "ndarray", "float32", "float64"}:
        return tests
    return IMPORT.sub(lambda _: STAND_IN, tests)

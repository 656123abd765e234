"""The isolation that this machine has, as a mark for tests that need it."""

from __future__ import annotations

import pytest

from megaphi.errors import InputError
from megaphi.grading.code_sandbox.isolation import find_isolation


def why_there_is_none() -> str:
    """The reason why programs cannot be isolated here, empty where they can."""
    try:
        find_isolation()
    except InputError as error:
        return str(error)
    return ""


WHY_NOT = why_there_is_none()
needs_isolation = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

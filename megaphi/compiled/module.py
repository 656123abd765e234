"""The compiled part of megaphi, `megaphi._C`, imported when it is first needed.

Without it there is no order of the data, no reading, no words: one message tells how to install it.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

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

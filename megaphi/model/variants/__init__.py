"""Variants of the model, each a file of this folder, found by name (`model.variant=NAME`).

Checkpoints name their variant, and may come from strangers. So a name is looked up among the files of this folder and
is never a path: the code that runs is part of the package, or was put here by whoever installed it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from megaphi.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from megaphi.model.variants.phi4 import Phi4

USUAL = "phi4"


def variant_names() -> list[str]:
    """Names of all variants in this folder."""
    return sorted(module.name for module in iter_modules(__path__))


@cache
def variant_of(name: str) -> Phi4:
    """The variant of this name. Raises InputError if there is none, or its file has no class `Variant`."""
    known = variant_names()
    if name not in known:
        raise InputError(
            f"model.variant={name}: there is no variant of this name.{did_you_mean(name, known)} There are "
            f"{', '.join(known)}; another one is a file of megaphi/model/variants (CONTRIBUTING.md)"
        )
    module = import_module(f"{__name__}.{name}")
    kind = getattr(module, "Variant", None)
    if kind is None:
        raise InputError(f"model.variant={name}: {module.__file__} has no class Variant")
    return kind()

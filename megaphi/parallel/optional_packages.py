"""Transformer Engine and Apex, which Megatron uses if it can import them: installed, absent, or broken.

Megatron wraps these imports in `except ImportError`. A broken installation (no matching libraries, another project of
the same name) may raise anything else, which would end every program that imports Megatron. `hide_broken` tries the
imports first and hides a broken package, so that Megatron treats it as absent; `megaphi doctor` reports what is wrong.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

_TRIED = {"transformer_engine": "transformer_engine.pytorch", "apex": "apex.optimizers"}
"""Package -> a module of it that Megatron needs and a broken installation lacks."""
ABSENT = "is not installed"
_broken: dict[str, str] = {}


def hide_broken() -> None:
    """Hide installed packages that cannot be imported; call it before the first import of Megatron."""
    for package, part in _TRIED.items():
        if package in sys.modules or importlib.util.find_spec(package) is None:
            continue
        try:
            importlib.import_module(part)
        except Exception as error:
            first_line = str(error).splitlines()[0] if str(error) else "no message"
            _broken[package] = f"is installed but broken ({type(error).__name__}: {first_line})"
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]
            sys.modules[package] = None  # pyright: ignore[reportArgumentType]  # "import" then raises ImportError


def problem_with(package: str) -> str | None:
    """None if the package works, else the problem."""
    if package in _broken:
        return _broken[package]
    return ABSENT if importlib.util.find_spec(package) is None else None

"""An objective of the user's own, `task.objective=my_file.py:MyObjective`, in place of the next token's cross-entropy.

`own_code.pinned` adds the file's digest to the name when a run is checked, so that config.json, checkpoints and the
comparison of ranks identify the version of the file that was used: `my_file.py:MyObjective@0123456789abcdef`. A name
with a digest, from a config.json, is refused if the file has changed since.
"""

from __future__ import annotations

from typing import Any

from megaphi.engine.objective import NextToken, Objective
from megaphi.errors import InputError
from megaphi.own_code import load_own, running, split_name, without_digest


def load_objective(name: str | None) -> Objective:
    """Return the user's objective, or `NextToken` without one. Raises InputError if the user's class is none."""
    if name is None:
        return NextToken()
    name = without_digest(name)
    make = load_own(name, what="objective")
    path, _ = split_name(name, what="objective")
    made: Any = running(path, f"objective {name!r}", make)
    names = getattr(made, "names", None)
    named = isinstance(names, tuple) and all(isinstance(part, str) for part in names)
    if not named or not callable(getattr(made, "forward", None)):
        raise InputError(
            f"objective {name!r} gives a {type(made).__name__}: expected an object with names, a tuple of text, and a "
            "method forward(batch, chunk, device), as megaphi/engine/objective.py describes it"
        )
    if hasattr(made, "beforehand") and not callable(getattr(made, "knowing", None)):
        raise InputError(
            f"objective {name!r} has beforehand, but no method knowing(means) that gives the objective of the step"
        )
    return made

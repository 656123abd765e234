"""The request of `megaphi profile`: profiles/request.json in a run folder, taken away by the run that honours it.

No torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import read_object, write_json
from megaphi.log import logger

MOST_STEPS = 1_000


def _path(folder: Path) -> Path:
    return folder / "profiles" / "request.json"


def write_request(folder: Path, *, steps: int) -> None:
    """Ask the run in `folder` to profile its next `steps` steps. Raises InputError."""
    if not 1 <= steps <= MOST_STEPS:
        raise InputError(f"--steps {steps}: from 1 to {MOST_STEPS:,}")
    write_json(_path(folder), {"steps": steps})


def is_waiting(folder: Path) -> bool:
    """Return whether a request has not been taken yet."""
    return _path(folder).exists()


def take_request(folder: Path) -> int:
    """The number of steps that a request asks for, which is removed; 0 where there is none, or none that is valid."""
    path = _path(folder)
    if not path.exists():
        return 0
    found: Any = None
    try:
        found = read_object(path, what="request of a profile").get("steps")
        path.unlink()
    except (InputError, OSError) as error:
        logger.error("%s cannot be read and removed: %s", path, error)
        return 0
    if type(found) is not int or not 1 <= found <= MOST_STEPS:
        logger.error("%s asks for %.20r steps: from 1 to %d", path, found, MOST_STEPS)
        return 0
    return found

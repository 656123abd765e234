"""Numbers of a model that are NaN or infinite: counted, by tensor, wherever values pass from a file to somewhere else.

A conversion keeps them and says so, so does whatever only reads a model (chat, serve, evaluate): a row of a token that
never comes may hold them without harm, and someone may want to look at a run that diverged. Training refuses them: one
NaN reaches every gradient, and the run would save it over and over.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from megaphi.errors import InputError
from megaphi.log import logger

_MOST_NAMES = 3


class NotFinite:
    """Count of the numbers of each tensor that are NaN or infinite."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def look(self, name: str, values: Tensor) -> Tensor:
        """Return the values of a tensor that pass by."""
        if count := not_finite_in(values):
            self._counts[name] = self._counts.get(name, 0) + count
        return values

    def say(self, folder: Path) -> None:
        """Log what was found in the weights of `folder`."""
        if self._counts:
            logger.warning("%s, and are kept: this is not a working model", self._found_in(folder))

    def refuse(self, folder: Path) -> None:
        """Raises InputError if anything was found."""
        if self._counts:
            raise InputError(
                f"{self._found_in(folder)}: nothing can be trained from them; use an earlier checkpoint, or another"
                " model"
            )

    def _found_in(self, folder: Path) -> str:
        names = [f"{name}: {count:,}" for name, count in list(self._counts.items())[:_MOST_NAMES]]
        more = "" if len(self._counts) <= _MOST_NAMES else ", ..."
        total, tensors = sum(self._counts.values()), len(self._counts)
        return f"{folder}: NaN or infinite are {total:,} numbers of {tensors:,} tensors ({', '.join(names)}{more})"


def not_finite_in(values: Tensor) -> int:
    """Count of the values that are NaN or infinite.

    A sum that is finite says that all are; it is as fast as memory, while a look at each number is not. One that is
    not finite may have overflowed.
    """
    if values.dtype.is_floating_point and not math.isfinite(float(values.sum())):
        return int((~values.isfinite()).sum())
    return 0

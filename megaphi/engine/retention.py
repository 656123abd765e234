"""Retention of checkpoints: the newest few, those of round steps, the best by validation loss.

A checkpoint is renamed to a hidden name before it is deleted, so that an interrupted deletion leaves no half of a
checkpoint, only a hidden folder that the next save removes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from megaphi.config import FilePath, Range
from megaphi.errors import InputError
from megaphi.files import read_object, remove_tree, unused_name
from megaphi.json_text import is_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """Writing and retention of checkpoints, and the response to failing storage (config section `saving`).

    A save that fails ends the run if it is the last one, or if none has succeeded since the start (`train_unsaved`).
    Otherwise training continues, and `checkpoint_failures` and `steps_since_checkpoint` are in the metrics.
    """

    every: Annotated[int, Range(minimum=1)] = 1_000
    """Steps between checkpoints; the last step, and a stop, always save."""
    keep_last: Annotated[int, Range(minimum=0)] = 3
    """Newest checkpoints to keep; older ones are deleted once a newer one is complete. 0 keeps all."""
    keep_every: Annotated[int, Range(minimum=0)] = 0
    """Also keep the checkpoints of every step that is a multiple of this; 0: of none."""
    keep_best: Annotated[int, Range(minimum=0)] = 0
    """Also keep this many checkpoints of the lowest validation loss."""
    asynchronous: bool = True
    """Training waits only for a copy in host memory, which then stays allocated; a thread of each rank writes it."""
    verify: bool = True
    """Read every file back, after writing it and before resuming from it, and compare it with its hash."""
    attempts: Annotated[int, Range(minimum=1)] = 3
    """Attempts to write to each folder before abandoning this checkpoint."""
    retry_seconds: Annotated[float, Range(minimum=0, maximum=3_600)] = 2.0
    """Pause before the second attempt; it doubles from one to the next."""
    train_unsaved: bool = False
    """Keep training even if the first checkpoint since the start could not be written anywhere."""
    fallback_folder: FilePath | None = None
    """Folder for checkpoints while the run folder cannot be written; resuming looks there too. One for each run."""
    patience_seconds: Annotated[float, Range(minimum=0, maximum=86_400)] = 600.0
    """Seconds that training waits for the previous save, if it is still being written when the next is due."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Step and validation loss of a checkpoint."""

    step: int
    validation_loss: float | None = None


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def stored_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, complete or not, in order."""
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name.removeprefix("step_")) for name in names if re.fullmatch(r"step_\d{8,}", name))


def outdated(stored: Sequence[Stored], rules: Saving, *, newest: int) -> list[int]:
    """Steps that no rule keeps, now that `newest` is complete.

    Checkpoints of later steps stay: they belong to a run that was set back by hand.
    """
    if rules.keep_last == 0:
        return []
    earlier = sorted((one for one in stored if one.step <= newest), key=lambda one: one.step)
    validated = [one for one in earlier if one.validation_loss is not None]
    best = sorted(validated, key=lambda one: (one.validation_loss, -one.step))[: rules.keep_best]
    kept = {newest, *(one.step for one in earlier[-rules.keep_last :]), *(one.step for one in best)}
    if rules.keep_every:
        kept |= {one.step for one in earlier if one.step % rules.keep_every == 0}
    return [one.step for one in earlier if one.step not in kept]


def prune(folder: Path, rules: Saving, *, newest: int) -> None:
    """Delete the checkpoints that `outdated` names, and what interrupted saves and deletions left."""
    stored = [
        Stored(step=step, validation_loss=_validation_loss(folder / checkpoint_name(step)) if rules.keep_best else None)
        for step in stored_steps(folder)
    ]
    for step in outdated(stored, rules, newest=newest):
        remove(folder / checkpoint_name(step))
    for path in folder.glob(".step_*"):
        remove_tree(path)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, atomically; of a link to one, the link."""
    hidden = unused_name(checkpoint, "deleted")
    checkpoint.rename(hidden)
    remove_tree(hidden)


def _validation_loss(checkpoint: Path) -> float | None:
    try:
        loss = read_object(checkpoint / "state.json", what="checkpoint state").get("validation_loss")
    except (InputError, OSError):
        loss = None
    return loss if is_number(loss) and math.isfinite(loss) else None  # corrupted: no candidate for the best

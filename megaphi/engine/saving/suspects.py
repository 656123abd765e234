"""Checkpoints that a run must not resume from, although they are complete: it went back to before them.

They are renamed to `suspect_step_...`, for people to look at, and `latest` names the newest of the others again. The
next checkpoint of a later step deletes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaphi.engine.retention import checkpoint_name, stored_steps
from megaphi.files import remove_tree, write_text

SUSPECT = "suspect_"


def set_aside(folders: Sequence[Path], *, after: int) -> list[str]:
    """Set aside the checkpoints of steps after `after` in all folders; returns where they are now.

    `latest` goes first, so that a crash in between leaves nothing to resume from but what is kept.
    """
    found = []
    for folder in folders:
        steps = stored_steps(folder)
        later = [step for step in steps if step > after]
        if later and len(later) < len(steps):
            write_text(folder / "latest", checkpoint_name(max(step for step in steps if step <= after)) + "\n")
        elif later:
            (folder / "latest").unlink(missing_ok=True)
        for step in later:
            suspect = folder / f"{SUSPECT}{checkpoint_name(step)}"
            remove_tree(suspect)
            (folder / checkpoint_name(step)).rename(suspect)
            found.append(str(suspect))
    return found


def forget_suspects(folder: Path, *, until: int) -> None:
    """Delete what was set aside of steps up to `until`, of which there is a better checkpoint, or a later one."""
    for suspect in folder.glob(f"{SUSPECT}step_*"):
        number = suspect.name.removeprefix(f"{SUSPECT}step_")
        if number.isdigit() and int(number) <= until:
            remove_tree(suspect)

"""`saving.fallback_folder`: a run's checkpoints while its own folder cannot be written; the folder belongs to one run.

Resuming looks there too, and checkpoints there are deleted once the run folder has newer ones; those of another run
would be resumed from, or lost. So rank 0 locks the folder at the start, like the run folder. With the first checkpoint
comes a file that names the run, and it stays as long as there are checkpoints. Lock and file are checked again before
the folder is used, because it may have been unreachable at the start.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from megaphi.engine.retention import checkpoint_name, remove, stored_steps
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_lock import Lock, Occupied, take
from megaphi.errors import InputError
from megaphi.files import read_json, write_text
from megaphi.foreign.files import LINE_BYTES, read_small
from megaphi.renamed_fields import with_new_names

OWNER = "run_folder"
"""The file that holds the absolute path of the checkpoints' run folder."""


def usual_folder(run: RunConfig) -> Path:
    return Path(run.folder) / "checkpoints"


def fallback_folders(run: RunConfig) -> list[Path]:
    """The fallback folder in a list, or no folder."""
    return [] if run.saving.fallback_folder is None else [Path(run.saving.fallback_folder)]


def hold_fallback(run: RunConfig) -> list[Lock]:
    """Take the fallback folder's lock for the life of this process; no lock if it cannot be written now.

    Raises:
        InputError: the folder is another run's, or that of the run itself.
    """
    locks = []
    for folder in fallback_folders(run):
        check_fallback(run, folder)
        try:
            locks.append(take(folder, take_over=run.start.take_over, field="saving.fallback_folder"))
        except Occupied:
            raise
        except (InputError, OSError):  # run_folder.py reports the ranks that cannot write there
            continue
    return locks


def check_fallback(run: RunConfig, folder: Path) -> None:
    """Refuse a fallback folder that holds another run's checkpoints, or is a run folder. Raises InputError."""
    field = f"saving.fallback_folder={folder}"
    if folder.resolve() == usual_folder(run).resolve():
        raise InputError(f"{field} is the folder of this run's own checkpoints: choose another folder, or none")
    owner = _owner(folder)
    if owner is not None and owner != Path(run.folder).resolve():
        raise InputError(
            f"{field} holds checkpoints of the run {owner}: give every run a folder of its own, or if that run has "
            f"become this one, correct {folder / OWNER}"
        )


def mark_fallback(run: RunConfig, folder: Path) -> None:
    """Make a fallback folder this run's, before a checkpoint goes there. Raises InputError, see above."""
    check_fallback(run, folder)
    if not (folder / OWNER).is_file():
        write_text(folder / OWNER, f"{Path(run.folder).resolve()}\n")


def clear_fallback(run: RunConfig, folder: Path, *, until: int) -> None:
    """Delete a fallback folder's checkpoints up to a step, and the owner's file if none is left."""
    check_fallback(run, folder)
    for step in stored_steps(folder):
        if step <= until:
            remove(folder / checkpoint_name(step))
    if folder.is_dir() and not stored_steps(folder):
        (folder / "latest").unlink(missing_ok=True)
        (folder / OWNER).unlink(missing_ok=True)


def _owner(folder: Path) -> Path | None:
    """The run folder that owns a folder's checkpoints, by the owner's file or else a checkpoint's configuration."""
    if (folder / OWNER).is_file():
        return Path(os.fsdecode(read_small(folder / OWNER, largest=LINE_BYTES)).strip())
    for step in reversed(stored_steps(folder)):
        with suppress(InputError, OSError, KeyError, TypeError):
            config = read_json(folder / checkpoint_name(step) / "config.json", what="checkpoint configuration")
            return Path(with_new_names(config)["folder"]).resolve()
    return None

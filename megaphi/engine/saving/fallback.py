"""`saving.fallback_folder`: holds a run's checkpoints while its own folder cannot be written; it belongs to one run.

Resuming looks there too, and what the usual place has overtaken is deleted there, so checkpoints of another run would
be trained on, or lost. At the start rank 0 locks the folder like the run folder. The first checkpoint that goes there
brings a file that names the run; it stays as long as there are checkpoints. Each is looked at again before the folder
is used, because it may have been out of reach at the start.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from megaphi.engine.retention import checkpoint_name, remove, stored_steps
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_lock import Lock, Occupied, take
from megaphi.errors import InputError
from megaphi.files import read_json, write_text
from megaphi.renamed_fields import with_new_names

OWNER = "run_folder"
"""The file with the absolute path of the run folder whose checkpoints these are."""


def usual_folder(run: RunConfig) -> Path:
    return Path(run.folder) / "checkpoints"


def fallback_folders(run: RunConfig) -> list[Path]:
    """The one fallback folder, if there is one."""
    return [] if run.saving.fallback_folder is None else [Path(run.saving.fallback_folder)]


def hold_fallback(run: RunConfig) -> list[Lock]:
    """The fallback folder's lock, for as long as this process lives; none where it cannot be written now.

    Raises:
        InputError: the folder is another run's, or the usual one.
    """
    locks = []
    for folder in fallback_folders(run):
        check_fallback(run, folder)
        try:
            locks.append(take(folder, take_over=run.start.take_over, field="saving.fallback_folder"))
        except Occupied:
            raise
        except (InputError, OSError):  # run_folder.py says on which ranks nothing can be written there
            continue
    return locks


def check_fallback(run: RunConfig, folder: Path) -> None:
    """Raises InputError if the checkpoints in a fallback folder are, or would become, another run's."""
    field = f"saving.fallback_folder={folder}"
    if folder.resolve() == usual_folder(run).resolve():
        raise InputError(f"{field} is where the checkpoints of this run go anyhow: choose another folder, or none")
    owner = _owner(folder)
    if owner is not None and owner != Path(run.folder).resolve():
        raise InputError(
            f"{field} holds checkpoints of the run {owner}: give every run a folder of its own, or if that run has "
            f"become this one, correct {folder / OWNER}"
        )


def mark_fallback(run: RunConfig, folder: Path) -> None:
    """Before a checkpoint goes to a fallback folder: it is this run's from now on. Raises InputError, see above."""
    check_fallback(run, folder)
    if not (folder / OWNER).is_file():
        write_text(folder / OWNER, f"{Path(run.folder).resolve()}\n")


def clear_fallback(run: RunConfig, folder: Path, *, until: int) -> None:
    """Delete a fallback folder's checkpoints up to a step, and what says whose they are where none is left."""
    check_fallback(run, folder)
    for step in stored_steps(folder):
        if step <= until:
            remove(folder / checkpoint_name(step))
    if folder.is_dir() and not stored_steps(folder):
        (folder / "latest").unlink(missing_ok=True)
        (folder / OWNER).unlink(missing_ok=True)


def _owner(folder: Path) -> Path | None:
    """The run whose checkpoints lie in a folder; that of a checkpoint without mark is where its configuration says."""
    if (folder / OWNER).is_file():
        return Path((folder / OWNER).read_text(errors="surrogateescape").strip())
    for step in reversed(stored_steps(folder)):
        with suppress(InputError, OSError, KeyError, TypeError):
            config = read_json(folder / checkpoint_name(step) / "config.json", what="checkpoint configuration")
            return Path(with_new_names(config)["folder"]).resolve()
    return None

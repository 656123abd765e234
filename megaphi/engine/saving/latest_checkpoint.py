"""The checkpoint that a run resumes from: the newest that is complete and byte for byte what was saved.

Each rank reads a share of a candidate's files and compares hashes; a corrupted candidate is reported and the one before
it is tried. A run that has checkpoints but no complete one stops: starting over silently would be worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaphi.checkpoint.manifest import MANIFEST, Manifest, check_content, check_sizes, read_manifest
from megaphi.engine.retention import checkpoint_name, stored_steps
from megaphi.errors import InputError
from megaphi.foreign.files import read_line
from megaphi.log import logger, progress_bar
from megaphi.parallel.agreement import agreed, refuse
from megaphi.parallel.exchange import broadcast, gathered
from megaphi.parallel.world import World

_BYTES_WORTH_A_BAR = 1 << 32


def newest_checkpoint(folders: Sequence[Path], world: World, *, verify: bool) -> Path | None:
    """The checkpoint to resume, the same on all ranks; None if there is none at all. Collective.

    Args:
        folders: where checkpoints may be; of two checkpoints of one step, that of the first folder is used.
        verify: compare every file with its hash, not only its size.

    Raises:
        InputError: there are checkpoints, but none is complete.
    """
    found = agreed(world, lambda: [str(path) for path in candidates(folders)] if world.is_main else [])
    skipped = []
    for path in map(Path, broadcast(found, list[str])):
        problem = problem_of(path, world, verify=verify)
        if problem is None:
            return path
        skipped.append(problem)
        logger.warning("  skipping one: %s", problem)
    if skipped:
        where = " and ".join(map(str, folders))
        refuse(
            world,
            f"no checkpoint in {where} is whole ({len(skipped)} tried; the newest: {skipped[0]}): "
            "restore one, or start from scratch with start.resume=false",
        )
    return None


def candidates(folders: Sequence[Path]) -> list[Path]:
    """Checkpoints, complete or not, in the order in which to try them.

    A folder's `latest` names the run's current step; later steps belong to a run that was set back by hand. If `latest`
    names nothing, the newest step comes first.

    Raises:
        InputError: there is no checkpoint, although `latest` names one.
    """
    found = []
    for priority, folder in enumerate(folders):
        steps = stored_steps(folder)
        latest = _latest(folder)
        if latest is not None and latest not in steps:
            logger.warning("  %s names step %d, which is not there", folder / "latest", latest)
            latest = None
        found += [(-step, priority, folder / checkpoint_name(step)) for step in steps if step <= (latest or step)]
    pointers = [folder / "latest" for folder in folders if (folder / "latest").is_file()]
    if pointers and not found:
        raise InputError(
            f"{pointers[0]} says that there is a checkpoint, and there is none: restore it, or remove the file to "
            "start from scratch"
        )
    return [path for _, _, path in sorted(found)]


def _latest(folder: Path) -> int | None:
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    try:
        name = read_line(pointer).removeprefix("step_")
    except InputError:  # no text, or not one line of it
        name = ""
    if not (name.isascii() and name.isdigit()):
        logger.warning("  %s does not name a checkpoint", pointer)
        return None
    return int(name)


def problem_of(path: Path, world: World, *, verify: bool) -> str | None:
    """The problem of a checkpoint, or None; all ranks search for it together, and all get the answer. Collective."""
    problem = None
    try:
        if not (path / MANIFEST).is_file():
            raise InputError(f"checkpoint {path} is not complete: it has no {MANIFEST}")
        manifest = read_manifest(path)
        check_sizes(path, manifest)
        if verify:
            _check_share(path, manifest, world)
    except (InputError, OSError) as error:
        problem = str(error)
    return next((one for one in gathered(problem, str | None) if one is not None), None)


def _check_share(path: Path, manifest: Manifest, world: World) -> None:
    """Verify every `world.size`-th file, with large files spread evenly over the ranks."""
    by_size = sorted(manifest.files, key=lambda name: (-manifest.files[name].bytes, name))
    visible = world.is_main and manifest.bytes // world.size >= _BYTES_WORTH_A_BAR
    mine = by_size[world.rank :: world.size]
    total = sum(manifest.files[name].bytes for name in mine)
    with progress_bar(total=total, unit="B", label="verify", visible=visible) as bar:
        for name in mine:
            check_content(path, manifest, name)
            bar.update(manifest.files[name].bytes)

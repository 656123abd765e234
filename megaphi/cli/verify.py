"""Verify checkpoints: every byte against the hashes of when it was saved, the index, the completeness of the weights.

Reads all files (about as fast as the disk, with a progress bar); needs no GPU and no process group. Exit code 0: whole;
1: something is wrong, and every finding was printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megaphi.config import user_path

HELP = "check that checkpoints are what was saved"
EXAMPLE = """examples:
  megaphi verify runs/phi4_14b                                   the newest checkpoint of a run
  megaphi verify runs/phi4_14b --all                             every checkpoint of it
  megaphi verify backup/step_00424000 --values                   and look for numbers that are not finite
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=user_path, metavar="PATH", nargs="+", help="a checkpoint or a run folder")
    parser.add_argument("--all", action="store_true", help="every checkpoint of a run folder, not only its newest")
    parser.add_argument("--values", action="store_true", help="also read every tensor, looking for NaN and infinity")


def run(arguments: argparse.Namespace) -> int:
    from megaphi.checkpoint.format import resolve

    sound = True
    for path in map(Path, arguments.paths):
        for folder in _all_of(path) if arguments.all else [resolve(path)]:
            sound = _verify(folder, values=arguments.values) and sound
    return 0 if sound else 1


def _all_of(path: Path) -> list[Path]:
    from megaphi.errors import InputError

    home = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = sorted(folder for folder in home.glob("step_*") if folder.is_dir())
    if not found:
        raise InputError(f"{path} holds no checkpoints: --all takes a run folder")
    return found


def _verify(folder: Path, *, values: bool) -> bool:
    from megaphi.checkpoint.verification import problems_of
    from megaphi.log import progress_bar

    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with progress_bar(total=total, unit="B", label=folder.name) as bar:
        problems = list(problems_of(folder, values=values, advance=bar.update))
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{folder}: whole ({total:,} bytes)")
    return not problems

"""Evaluated items as decontamination looks for them: read by the tasks themselves, so that both name an item alike.

An item's name may be a hash of its question, or have a number where a file holds the question twice; only its task
knows. The text of an item is its question, and its options if it is a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaphi.decontamination.item_index import BenchmarkItem
from megaphi.errors import InputError, did_you_mean
from megaphi.evaluation.data_files import read_items, read_manifest
from megaphi.evaluation.task import GeneratedTask, Item
from megaphi.evaluation.tasks import find_task


def evaluated_texts(manifest: Path, tasks: Sequence[str] = ()) -> list[BenchmarkItem]:
    """The items of tasks, in sets named as the tasks.

    Args:
        tasks: names of tasks in the manifest; () for all of them.

    Raises:
        InputError: the manifest or a file is wrong, it has no such task, or a task makes its items itself.
    """
    files = read_manifest(manifest)
    found = []
    for name in tasks or files:
        if name not in files:
            raise InputError(f"{manifest} has no files for task {name}.{did_you_mean(name, list(files))}")
        task = find_task(name)
        if isinstance(task, GeneratedTask):
            raise InputError(
                f"task {name} fills contexts with its files, and names its items by their lengths: leave it out of"
                " --tasks, and scan its files with --benchmark"
            )
        place = ", ".join(str(one.path) for one in files[name].items)
        for item in read_items(task, files[name]).items:
            found.append(BenchmarkItem(set=name, name=item.name, place=place, text=_text(item)))
    return found


def _text(item: Item) -> str:
    return "\n".join((item.question, *getattr(item.key, "options", ())))

"""The tasks, by name. Every module of this folder and of its folders that has `TASKS` adds them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from megaphi.errors import InputError, did_you_mean
from megaphi.evaluation.task import EvaluationTask


@cache
def all_tasks() -> dict[str, EvaluationTask]:
    """Name to task, sorted by name."""
    found: dict[str, EvaluationTask] = {}
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        for task in getattr(importlib.import_module(module.name), "TASKS", ()):
            if task.name in found:
                raise AssertionError(f"two tasks are named {task.name}")
            found[task.name] = task
    return dict(sorted(found.items()))


def find_task(name: str) -> EvaluationTask:
    """Raises InputError for a name that is none."""
    tasks = all_tasks()
    if name not in tasks:
        raise InputError(f"there is no task {name!r}: choose from {', '.join(tasks)}.{did_you_mean(name, tasks)}")
    return tasks[name]

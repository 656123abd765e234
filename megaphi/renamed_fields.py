"""Fields of a run's configuration that had other names once: command lines, files and checkpoints keep working.

A row may name a single field or a whole section; the longest row that fits a path decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaphi.errors import InputError

RENAMED = {
    "run.folder": "folder",
    "run.steps": "training.steps",
    "run.epochs": "training.epochs",
    "run.stop_after": "training.stop_after",
    "run.time_limit": "training.time_limit",
    "run.validate_every": "validation.every",
    "run.validation_samples": "validation.samples",
    "run.resume": "start.resume",
    "run.take_over": "start.take_over",
    "run.initial_checkpoint": "start.initial_checkpoint",
    "run.continue_sources": "start.continue_sources",
    "run.accept_changed_data": "start.accept_changed_data",
    "run.accept_rate_jump": "start.accept_rate_jump",
}
"""Old path -> path since 0.2."""
NOW_THE_TASK = {
    "mixture": "task.mixture",
    "conversations": "task",
    "preferences": "task",
    "objective": "task.objective",
}
"""Sections of which a run had one; since 0.2 the section `task` has what they held, and a kind."""


def renamed(path: str) -> str | None:
    """The path that an old one has now; None if it is not an old one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        old = ".".join(parts[:length])
        now = RENAMED.get(old) or NOW_THE_TASK.get(old)
        if now is not None:
            return ".".join([now, *parts[length:]])
    return None


def with_new_names(config: Any) -> Any:
    """A configuration read from JSON in which every field has the name of today; the given one stays as it is.

    What is no object is returned as it is: whoever builds the run from it says so.

    Raises:
        InputError: a field is there under both of its names.
    """
    if not isinstance(config, Mapping):
        return config
    tree = _copy(config)
    for old, new in RENAMED.items():
        value = _take(tree, old.split("."))
        if value is not None:
            _put(tree, new.split("."), value[0], old=old)
            _drop_empty(tree, old.split(".")[0])
    return _with_task(tree)


def _with_task(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections that are `NOW_THE_TASK` as one, where the section `recipe` would have had them."""
    old = {name: tree.pop(name) for name in NOW_THE_TASK if name in tree}
    if not old:
        return tree
    if "task" in tree:
        raise InputError(f"{next(iter(old))} is an old name of {NOW_THE_TASK[next(iter(old))]}, and both are there")
    mixture = old.get("mixture") or {}
    given = {
        "Pretrain": {"mixture": mixture} if mixture.get("sources") or len(old) == 1 else None,
        "Finetune": old.get("conversations"),
        "Prefer": old.get("preferences"),
    }
    kinds = [kind for kind, fields in given.items() if fields is not None]
    if len(kinds) != 1:
        raise InputError(
            f"a run has a mixture, conversations or preferences, exactly one of them; this one has {len(kinds)}"
        )
    tree["task"] = {"kind": kinds[0], **given[kinds[0]]}
    if old.get("objective") is not None:
        tree["task"]["objective"] = old["objective"]
    return tree


def _drop_empty(tree: dict[str, Any], section: str) -> None:
    if tree.get(section) == {}:
        del tree[section]


def _copy(tree: Any) -> Any:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree


def _take(tree: dict[str, Any], steps: list[str]) -> tuple[Any] | None:
    """Remove a value and return it as a tuple of one; None if it is not there."""
    *sections, name = steps
    for section in sections:
        inner = tree.get(section)
        if not isinstance(inner, dict):
            return None
        tree = inner
    return (tree.pop(name),) if name in tree else None


def _put(tree: dict[str, Any], steps: list[str], value: Any, *, old: str) -> None:
    *sections, name = steps
    for section in sections:
        tree = tree.setdefault(section, {})
    if isinstance(value, dict) and isinstance(tree.get(name), dict):
        for key, part in value.items():
            _put(tree[name], [key], part, old=f"{old}.{key}")
    elif name in tree:
        raise InputError(f"{old} is the old name of {'.'.join(steps)}, and both are there: remove one")
    else:
        tree[name] = value

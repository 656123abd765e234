"""Contaminated items, as `megaphi decontaminate` marks them, so that scores can be told with and without them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from megaphi.decontamination.rule import STATUSES
from megaphi.errors import InputError
from megaphi.foreign.files import read_text
from megaphi.json_text import parse_json


def item_statuses(path: Path, evaluated: Mapping[str, Collection[str]]) -> dict[str, dict[str, str]]:
    """Task to the status of each evaluated item, for the tasks that have a set of their name in the file.

    Args:
        path: items.jsonl, with `set`, `item` and `status` on each line.
        evaluated: task to the items that were evaluated.

    Raises:
        InputError: a line is wrong, no set has the name of a task, or an evaluated item of a set has no line.
    """
    lines = read_text(path).splitlines()
    marks: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        fields = [record.get(name) if isinstance(record, dict) else None for name in ("set", "item", "status")]
        if not all(isinstance(value, str) for value in fields) or fields[2] not in STATUSES:
            raise InputError(f"{path}, line {number}: needs the texts set, item and status ({', '.join(STATUSES)})")
        name, item, status = map(str, fields)
        marks.setdefault(name, {})[item] = status
    if not marks.keys() & evaluated.keys():
        raise InputError(f"{path} has no set named as an evaluated task: it has {', '.join(marks) or 'no line'}")
    found: dict[str, dict[str, str]] = {}
    for task in marks.keys() & evaluated.keys():
        missing = [item for item in evaluated[task] if item not in marks[task]]
        if missing:
            raise InputError(
                f"{path}: {len(missing):,} evaluated items of {task} have no line, the first is {missing[0]}. Scan the "
                "files that were evaluated, named by the tasks: megaphi decontaminate report --manifest FILE"
            )
        found[task] = {item: marks[task][item] for item in evaluated[task]}
    return found


def contaminated_items(path: Path, evaluated: Mapping[str, Collection[str]]) -> dict[str, set[str]]:
    """Task to its contaminated items. Arguments and errors are those of `item_statuses`."""
    statuses = item_statuses(path, evaluated)
    return {task: {item for item in found if found[item] == "contaminated"} for task, found in statuses.items()}

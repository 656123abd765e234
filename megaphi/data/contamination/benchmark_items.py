"""Items of evaluated sets from their files: JSON lines, JSON or Parquet, with the hub's column names.

The text of an item is what a person would read: its question, and its options if it has any; or the columns that are
named. A column may hold a text, or a list or object of texts. An item is called by its own id, else by file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megaphi.data.text.documents import read_records
from megaphi.data.text.input_files import find_files
from megaphi.decontamination.item_index import BenchmarkItem
from megaphi.errors import InputError

QUESTIONS = ("question", "prompt", "problem", "Question", "Problem", "instruction", "text")
"""Columns of which the first that a record has is its question."""
OPTIONS = ("choices", "options", "Options")
IDS = ("id", "task_id", "unique_id", "question_id", "Record ID")


def read_items(inputs: Sequence[str], *, keys: Sequence[str] = ()) -> list[BenchmarkItem]:
    """All items of `inputs`, each `NAME=PATH` or a path whose file is named like the set.

    Args:
        keys: columns that make up the text of an item; none: its question and options.

    Raises:
        InputError: a file cannot be read, a record has no such column or no text, or two items have one name.
    """
    found: dict[tuple[str, str], BenchmarkItem] = {}
    for given in inputs:
        name, equals, path = given.partition("=")
        for file in find_files([path if equals else given], texts=False):
            for item in _items_of(file, name if equals else file.name.partition(".")[0], keys):
                if (other := found.setdefault((item.set, item.name), item)) is not item:
                    raise InputError(f"{item.place}: the item {item.name!r} of {item.set} is {other.place} too")
    return list(found.values())


def _items_of(file: Path, name: str, keys: Sequence[str]) -> Iterator[BenchmarkItem]:
    for where, record in read_records(file):
        text = "\n".join(text for key in _chosen(record, keys, where) for text in _texts(record[key]))
        if not text.strip():
            raise InputError(f"{where}: the item has no text")
        own = next((record[key] for key in IDS if record.get(key) not in (None, "")), None)
        yield BenchmarkItem(set=name, name=Path(where).name if own is None else str(own), place=where, text=text)


def _chosen(record: Mapping[str, Any], keys: Sequence[str], where: str) -> list[str]:
    present = [key for key, value in record.items() if value is not None]
    missing = [key for key in keys if key not in present]
    question = next((key for key in QUESTIONS if key in present), None)
    if missing or (not keys and question is None):
        wanted = repr(missing[0]) if missing else f"none of {', '.join(QUESTIONS)}"
        raise InputError(
            f"{where}: no column {wanted}: it has {', '.join(present) or 'none'}; --item-key names the columns of an"
            " item's text"
        )
    return list(keys) if keys else [str(question), *(key for key in OPTIONS if key in present)]


def _texts(value: Any) -> Iterator[str]:
    """All texts in a column, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)

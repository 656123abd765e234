"""The data files of tasks: a manifest with their hashes and numbers of rows, and the items that they hold.

A manifest is JSON: task -> {"items": [{"path", "sha256", "rows"}], "shots": [...]}, paths relative to it. An entry may
have "columns", constants that its rows lack, as {"language": "de"} where only a file's name says it. Files are JSON
lines, JSON, Parquet, CSV or TSV with the hub's column names. Nothing is downloaded, and nothing is taken on trust: a
file that is not the one of the manifest is refused before a model is opened.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megaphi.data.text.documents import read_records
from megaphi.data.text.input_formats import content_of_name
from megaphi.errors import InputError, did_you_mean, shortened
from megaphi.evaluation.task import ArrangedTask, EvaluationTask, Item
from megaphi.files import read_object, sha256_of, write_json
from megaphi.foreign.files import one_line_path, read_text

TABLES = {".csv": ",", ".tsv": "\t"}
SHOTS = re.compile(r"(?<![a-z])(shots|train|dev|validation|exemplars)(?![a-z])", re.IGNORECASE)
"""Names of files with worked examples, or of their folders, if the task has other files too."""
LONGEST_CELL = 1 << 24
LONGEST_NAME = 200
"""Characters of a column's name in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file of a manifest."""

    path: Path
    sha256: str
    rows: int
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns that every row has with this value."""


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """The files of one task."""

    items: tuple[DataFile, ...] = ()
    shots: tuple[DataFile, ...] = ()

    def described(self) -> tuple[dict[str, Any], ...]:
        """For results: path, hash, rows and use of each file."""
        return tuple(
            {"path": str(one.path), "sha256": one.sha256, "rows": one.rows, "use": use}
            for use, files in (("items", self.items), ("shots", self.shots))
            for one in files
        )


@dataclass(frozen=True, slots=True)
class TaskItems:
    """Items of a task, and those of its worked examples."""

    items: list[Item]
    shots: list[Item]


def read_manifest(path: Path) -> dict[str, TaskFiles]:
    """Task to its files; no file is opened. Raises InputError for a manifest that is none, with task and field."""
    found = {}
    for task, entry in read_object(path, what="manifest of evaluation data").items():
        if not isinstance(entry, Mapping) or not entry.get("items"):
            raise InputError(f'{path}, task {task}: it needs "items", a list of files with path, sha256 and rows')
        unknown = [name for name in entry if name not in ("items", "shots")]
        if unknown:
            raise InputError(f"{path}, task {task}: unknown field {unknown[0]!r}: use 'items' and 'shots'")
        lists = {use: entry.get(use, []) for use in ("items", "shots")}
        for use, files in lists.items():
            if not isinstance(files, list):
                raise InputError(f"{path}, task {task}: field {use!r} must be a list")
        parts = [tuple(_data_file(path, one, f"task {task}, {use}") for one in lists[use]) for use in lists]
        found[str(task)] = TaskFiles(*parts)
    return found


def _data_file(manifest: Path, entry: Any, where: str) -> DataFile:
    if not isinstance(entry, Mapping):
        raise InputError(f"{manifest}, {where}: a file is an object with path, sha256 and rows")
    for name, kind in (("path", str), ("sha256", str), ("rows", int)):
        if not isinstance(entry.get(name), kind) or isinstance(entry[name], bool):
            raise InputError(f"{manifest}, {where}: field {name!r} is missing, or not of type {kind.__name__}")
    columns = entry.get("columns", {})
    unknown = [name for name in entry if name not in ("path", "sha256", "rows", "columns")]
    if unknown or not isinstance(columns, Mapping):
        raise InputError(f"{manifest}, {where}: unknown or wrong field {(unknown or ['columns'])[0]!r}")
    path = manifest.parent / one_line_path(entry["path"])
    return DataFile(path=path, sha256=entry["sha256"].lower(), rows=entry["rows"], columns=columns)


def make_manifest(folder: Path, tasks: Sequence[str]) -> Path:
    """Write `manifest.json` of a folder that holds TASK.EXTENSION or TASK/FILE for some of the tasks.

    Files whose names, or the names of whose folders, say shots, train, dev or validation hold worked examples; they
    hold the items of a task that has no other file, as several benchmarks are published under such a name only.

    Raises:
        InputError: there is no such folder, it holds a file for none of the tasks or one whose task is not known, or
            it has a manifest, which may be somebody's work.
    """
    place = folder / "manifest.json"
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if place.exists():
        raise InputError(f"{place} exists already: remove it, if it is to be made again")
    files: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and _is_readable(path)):
        name, *inner = Path(one_line_path(str(path))).relative_to(folder).parts
        if any(part.startswith(".") for part in (name, *inner)):
            continue
        task = name.partition(".")[0]
        if task not in tasks:
            raise InputError(
                f"{folder / name} is named after no task: rename it, or move it.{did_you_mean(task, tasks)}"
            )
        files.setdefault(task, []).append(path)
    if not files:
        raise InputError(f"{folder} holds no file named after a task, as mmlu.parquet or mmlu/test.csv")
    write_json(place, {task: _uses(folder, paths) for task, paths in files.items()})
    return place


def _uses(folder: Path, paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Entries of a task's files, by what they are used for."""
    shots = [
        path
        for path in paths
        if SHOTS.search("/".join(Path(one_line_path(str(path))).relative_to(folder).parts[1:]) or path.name)
    ]
    if len(shots) == len(paths):
        shots = []
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        rows = sum(1 for _ in records_of(path))
        entry = {"path": path.relative_to(folder).as_posix(), "sha256": sha256_of(path), "rows": rows}
        found.setdefault("shots" if path in shots else "items", []).append(entry)
    return found


def read_items(task: EvaluationTask, files: TaskFiles) -> TaskItems:
    """The items of a task's files, in order.

    Raises:
        InputError: a file is missing, changed, cut or no table; a row is no item; two items have one name; a worked
            example is evaluated too. With file and row.
    """
    places: dict[int, str] = {}
    read = [item for one in files.items for item in _items_of(task, one, places)]  # lives on: `places` has its ids
    if not read:
        raise InputError(f"the files of task {task.name} hold no item")
    items = task.arranged(read) if isinstance(task, ArrangedTask) else read
    _check_names(task, items, places)
    shots = [item for one in files.shots for item in _items_of(task, one, places)]
    names, questions = {item.name for item in items}, {_folded(item.question) for item in items}
    for shot in shots:
        if shot.name in names or _folded(shot.question) in questions:
            raise InputError(
                f"{places[id(shot)]}: this worked example of task {task.name} is an evaluated item too: take it out"
            )
    if len(shots) < task.shots:
        raise InputError(f"task {task.name} shows {task.shots} worked examples, and its files hold {len(shots)}")
    return TaskItems(items, shots)


def _check_names(task: EvaluationTask, items: Sequence[Item], places: Mapping[int, str]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        if item.name in seen:
            here, there = (places.get(id(one), f"task {task.name}") for one in (item, seen[item.name]))
            raise InputError(f"{here}: the item {item.name!r} is that of {there} too")
        seen[item.name] = item


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _items_of(task: EvaluationTask, file: DataFile, places: dict[int, str]) -> Iterator[Item]:
    _check_file(file)
    rows = 0
    for rows, (where, record) in enumerate(records_of(file.path), start=1):
        whole = {**record, **file.columns}
        if rows == 1:
            _check_columns(task, whole, where)
        try:
            item = task.read(whole)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        places[id(item)] = where
        yield item
    if rows != file.rows:
        raise InputError(f"{file.path} holds {rows:,} rows, and the manifest says {file.rows:,}")


def _check_file(file: DataFile) -> None:
    if not file.path.is_file():
        raise InputError(f"there is no file {file.path}")
    found = sha256_of(file.path)
    if found != file.sha256:
        raise InputError(
            f"{file.path} has the SHA-256 {found[:16]}…, and the manifest says {file.sha256[:16]}…: it was cut or "
            "changed. Get it again, or write the manifest again if it is meant (megaphi evaluate --write-manifest)"
        )


def _check_columns(task: EvaluationTask, record: Mapping[str, Any], where: str) -> None:
    for column in task.columns:
        if not any(name in record for name in column.split("|")):
            hint = did_you_mean(column.split("|")[0], list(record))
            wanted = " or ".join(map(repr, column.split("|")))
            raise InputError(f"{where}: no column {wanted}: there are {', '.join(map(repr, record))}.{hint}")


def _is_readable(path: Path) -> bool:
    """True for a file of records, by its name; cards and licences are none."""
    return path.suffix in TABLES or content_of_name(path) == "records"


def records_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of every row of a file. Raises InputError for one that was cut off, or is no table."""
    if path.suffix not in TABLES:
        yield from ((str(where), record) for where, record in read_records(path))
        return
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=TABLES[path.suffix], strict=True)
    try:
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            ((twice, _),) = Counter(names).most_common(1)
            raise InputError(f"{path}, row 1: a column is named twice: {shortened(twice, LONGEST_NAME)!r}")
        for number, row in enumerate(reader, start=2):
            if None in row or None in row.values():
                raise InputError(f"{path}, row {number}: it has more or fewer cells than the head has columns")
            yield f"{path}, row {number}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}") from None

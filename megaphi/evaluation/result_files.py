"""The files of an evaluation: `results.json`, and `TASK.jsonl` with a graded response on every line.

What is read is checked field by field: a file of another version, half a file or one that somebody edited gives one
error that names file, line and field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from megaphi.errors import InputError, did_you_mean
from megaphi.evaluation.results import FORMAT, Evaluation, GradedResponse, TaskResult
from megaphi.files import read_object, whole_file, write_json
from megaphi.foreign.files import read_text
from megaphi.json_text import parse_json

RESULTS = "results.json"
NUMBERS = [[low, high] for low in (int, float) for high in (int, float)]
"""Types of the ends of an interval."""
Kind = TypeVar("Kind")


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write the files into a folder that exists."""
    tasks = {name: _without_responses(result) for name, result in evaluation.tasks.items()}
    write_json(folder / RESULTS, {"format": FORMAT, **_plain_fields(evaluation), "tasks": tasks})
    for name, result in evaluation.tasks.items():
        with whole_file(folder / f"{name}.jsonl") as file:
            for response in result.responses:
                line = json.dumps(asdict(response), ensure_ascii=False) + "\n"
                file.write(line.encode("utf-8", "backslashreplace"))


def read_evaluation(folder: Path) -> Evaluation:
    """Read the files that `write_evaluation` wrote.

    Raises:
        InputError: a file is not there, was cut or changed, or is of another version. With file, line and field.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(f"{folder} holds no evaluation: there is no {RESULTS} in it")
    plain = read_object(path, what="results of an evaluation")
    if plain.pop("format", None) != FORMAT:
        raise InputError(f"{path}: the format is not {FORMAT}, which this version of megaphi reads")
    tasks = plain.get("tasks")
    if not isinstance(tasks, Mapping):
        raise InputError(f"{path}: the field 'tasks' is missing, or no object")
    found = {}
    for name, result in tasks.items():
        where = f"{path}, task {name}"
        if not isinstance(result, Mapping):
            raise InputError(f"{where}: it is no object")
        number = result.get("responses")
        responses = _read_responses(folder / f"{name}.jsonl")
        if number != len(responses):
            raise InputError(f"{folder / f'{name}.jsonl'} has {len(responses):,} responses, and {path} says {number}")
        intervals = _intervals(result.get("quirk_intervals", {}), f"{where}: field 'quirk_intervals'")
        found[name] = _record(TaskResult, {**result, "quirk_intervals": intervals, "responses": responses}, where)
    return _record(Evaluation, {**plain, "tasks": found}, str(path))


def _intervals(value: Any, where: str) -> dict[str, tuple[float, float]]:
    """Intervals by name; results that were written without them have none."""
    pairs = value.values() if isinstance(value, Mapping) else [None]
    if not all(isinstance(pair, list) and [type(end) for end in pair] in NUMBERS for pair in pairs):
        raise InputError(f"{where} must be an object of pairs of numbers")
    return {name: (float(low), float(high)) for name, (low, high) in value.items()}


def _read_responses(path: Path) -> tuple[GradedResponse, ...]:
    lines = read_text(path).split("\n")
    found = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        where = f"{path}, line {number}"
        try:
            value = parse_json(line)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: it is no object")
        found.append(_record(GradedResponse, value, where))
    return tuple(found)


def _plain_fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _without_responses(result: TaskResult) -> dict[str, Any]:
    return {**_plain_fields(result), "responses": len(result.responses)}


def _record(kind: type[Kind], value: Mapping[str, Any], where: str) -> Kind:
    """A record of a dataclass. Raises InputError for a field that is missing, unknown or of another type."""
    types = get_type_hints(kind)
    missing = [name for name in types if name not in value]
    unknown = [name for name in value if name not in types]
    if missing:
        raise InputError(f"{where}: the field {missing[0]!r} is missing")
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}.{did_you_mean(unknown[0], types)}")
    return kind(**{name: _checked(value[name], types[name], f"{where}: field {name!r}") for name in types})


def _checked(value: Any, expected: Any, where: str) -> Any:
    """The value, its lists as tuples where the field is one. Raises InputError if it is of another type."""
    origin = get_origin(expected) or expected
    if expected is Any:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if get_args(expected) and isinstance(get_args(expected)[0], str):  # a Literal
        if value not in get_args(expected):
            raise InputError(f"{where} is {value!r}, none of {', '.join(map(repr, get_args(expected)))}")
        return value
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_right = isinstance(value, origin) if isinstance(origin, type) else isinstance(value, NoneType)
    if not is_right or (isinstance(value, bool) and origin is int):
        raise InputError(f"{where} must be {getattr(origin, '__name__', origin)}, not {type(value).__name__}")
    return value

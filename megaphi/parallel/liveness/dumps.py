"""Dumps of torch's flight recorder, as a file or a folder of them holds them: one file a rank, a pickle or JSON.

They come from NCCL's watchdog, from our own heartbeat, or from any other PyTorch job. A dump is a dict of plain values;
it is read by our own restricted reader of pickles, and everything in it is checked. The rank is the number at the end
of the file's name. No torch here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named, read_small
from megaphi.foreign.restricted_pickle import LARGEST_BYTES, read_pickle
from megaphi.json_text import parse_json

WHAT = "a dump of torch's flight recorder"
MOST_RANKS = 1_000_000
_TORCHS = "/torch/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """A collective that a rank has started."""

    name: str
    """`all_reduce`."""
    number: int
    """Its sequence number in the process group."""
    shape: str
    """Sizes and types of its inputs and outputs."""
    sizes: tuple[Any, ...]
    """Inputs' and outputs' sizes and types, to be compared."""
    state: str
    """`scheduled`, `started` or `completed`; gloo does not say more than `scheduled`."""
    place: str
    """Innermost line of its Python stack that is not torch's."""
    started_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dump:
    """One rank's dump."""

    rank: int
    path: Path
    operations: Mapping[str, Sequence[Operation]]
    """By process group, in their order; the recorder keeps the last ones only."""
    purposes: Mapping[str, str]
    """Description of each process group."""
    members: Mapping[str, Sequence[int]]
    """Ranks of each process group, where the dump tells."""
    messages: int
    """Messages between two ranks, which are not compared."""


def read_dumps(paths: Sequence[Path]) -> list[Dump]:
    """The dumps that files, folders and run folders hold, by rank. Raises InputError."""
    found: dict[int, Dump] = {}
    for path in (file for given in paths for file in _files(given)):
        dump = read_dump(path)
        if dump.rank in found:
            raise InputError(f"{found[dump.rank].path} and {path} are both of rank {dump.rank}: give one job's dumps")
        found[dump.rank] = dump
    return [found[rank] for rank in sorted(found)]


def _files(given: Path) -> list[Path]:
    folder = given / "hang" if (given / "hang").is_dir() else given
    if not folder.is_dir():
        return [given]
    files = sorted(path for path in folder.iterdir() if _rank_of(path) is not None and path.is_file())
    if not files:
        raise InputError(
            f"{folder} holds no dumps of torch's flight recorder (files whose name ends with their rank): a job writes "
            "them to RUN/hang when it ends because a rank was lost or stood still"
        )
    return files


def _rank_of(path: Path) -> int | None:
    found = re.search(r"(\d{1,6})$", path.name.removesuffix(".json").removesuffix(".pickle").removesuffix(".pkl"))
    return int(found[1]) if found else None


def read_dump(path: Path) -> Dump:
    """Read one rank's file. Raises InputError."""
    rank = _rank_of(path)
    if rank is None:
        raise InputError(f"{path}: the name of a dump ends with its rank, as trace_rank_3 does")
    try:
        content = read_small(path, largest=LARGEST_BYTES)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    plain = _json(path, content) if content[:1] == b"{" else read_pickle(content, where=str(path), is_expected=_nothing)
    with damage_named(path, what=WHAT):
        return _dump(rank, path, plain)


def _json(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _nothing(name: str) -> bool:
    """A dump is plain values: no class or function has a place in it."""
    return False


def _dump(rank: int, path: Path, plain: Any) -> Dump:
    operations: dict[str, list[Operation]] = defaultdict(list)
    purposes, messages = {}, 0
    for entry in _typed(plain, dict, "the dump").get("entries", []):
        name, purpose = (_typed(part, str, "process_group") for part in entry["process_group"])
        purposes[name] = purpose
        if entry["is_p2p"]:
            messages += 1
        else:
            operations[name].append(_operation(entry))
    config = _typed(plain.get("pg_config", {}), dict, "pg_config")
    members = {name: ranks for name, one in config.items() if (ranks := _members(one))}
    for ordered in operations.values():
        ordered.sort(key=lambda operation: operation.number)
    return Dump(
        rank=rank, path=path, operations=dict(operations), purposes=purposes, members=members, messages=messages
    )


def _members(group: Any) -> list[int]:
    ranks = _typed(group, dict, "pg_config").get("ranks", "[]")
    found = parse_json(ranks) if isinstance(ranks, str) else ranks
    if not all(type(rank) is int and 0 <= rank < MOST_RANKS for rank in _typed(found, list, "ranks")):
        raise ValueError(f"the ranks of a group are {brief(found)}")
    return found


def _operation(entry: Any) -> Operation:
    sizes = [_typed(entry.get(name, []), list, name) for name in ("input_sizes", "output_sizes")]
    types = [_typed(entry.get(name, []), list, name) for name in ("input_dtypes", "output_dtypes")]
    return Operation(
        name=_typed(entry["profiling_name"], str, "profiling_name").rpartition(":")[2],
        number=int(entry["collective_seq_id"]),
        shape=_shape(sizes[0], types[0]),
        sizes=(*map(_frozen, sizes), *map(_frozen, types)),
        state=_typed(entry["state"], str, "state"),
        place=_place(_typed(entry.get("frames", []), list, "frames")),
        started_ns=int(entry.get("time_created_ns", 0)),
    )


def _shape(sizes: Sequence[Any], types: Sequence[Any]) -> str:
    if not sizes:
        return ""
    first = " x ".join(f"{int(size):,}" for size in sizes[0]) or "one number"
    more = f" and {len(sizes) - 1} more" if len(sizes) > 1 else ""
    return f"{first}{f' {types[0]}' if types else ''}{more}"


def _place(frames: Sequence[Any]) -> str:
    for frame in frames:
        file = _typed(frame["filename"], str, "filename")
        if _TORCHS not in file:
            return f"{_typed(frame['name'], str, 'name')} ({file}:{int(frame['line'])})"
    return ""


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _typed(value: Any, kind: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {brief(value)}")
    return value

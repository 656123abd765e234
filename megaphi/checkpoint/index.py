"""index.json: where each piece of each tensor is. What it says is checked here, once, and is believed everywhere else.

A piece must lie in a file of the checkpoint and within its tensor, and the pieces of a tensor must hold every number of
it exactly once (box.py): an index with a hole would have uninitialised memory read as weights. When a file is opened,
its own header must have every piece in the length and type that the index says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megaphi.checkpoint.box import Box, is_chain, is_cover
from megaphi.checkpoint.tensor_file import MOST_DIMENSIONS, MOST_NUMBERS, TensorFile
from megaphi.errors import InputError
from megaphi.foreign.files import brief, damage_named
from megaphi.json_text import parse_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}
WEIGHTS_END = ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A checked index."""

    tensors: Mapping[str, Any]
    """Key -> {shape, dtype, pieces}; a piece is {file, offset, shape, range}."""
    files: Mapping[str, Mapping[str, tuple[torch.dtype, int]]]
    """File -> key -> (type, length) of the piece that it holds."""

    def checked(self, file: TensorFile, name: str) -> TensorFile:
        """Return the open file `name`. Raises InputError, and closes it, if it lacks a piece of the index."""
        for key, (dtype, length) in self.files.get(name, {}).items():
            entry = file.entries.get(key)
            if entry is None or entry.dtype != dtype or entry.numel != length:
                file.close()
                raise InputError(f"{name} does not hold {key} as index.json says: {length:,} numbers of {dtype}")
        return file


def build_index(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """Every tensor and its pieces, from the headers of the files.

    Raises:
        InputError: a header does not describe the pieces of its file.
    """
    tensors: dict[str, Any] = {}
    for name in files:
        with TensorFile(folder / name) as file, damage_named(folder / name, what="a file of a checkpoint"):
            dtypes = {key: str(entry.dtype).removeprefix("torch.") for key, entry in file.entries.items()}
            for key, piece in parse_json(file.metadata["pieces"], unique=True).items():
                shape = piece.pop("whole")
                tensor = tensors.setdefault(key, {"shape": shape, "dtype": dtypes[key], "pieces": []})
                tensor["pieces"].append({"file": name, **piece})
    return {"tensors": tensors}


def checked_index(index: Mapping[str, Any], files: Collection[str], *, path: Path) -> Index:
    """Check an index, read or built.

    Args:
        files: names of the checkpoint's files.
        path: names the index in errors.

    Raises:
        InputError: it is not an index, leads out of the checkpoint, leaves a part of a tensor out, or lists one twice.
    """
    tensors = index.get("tensors")
    found: dict[str, dict[str, tuple[torch.dtype, int]]] = {}
    with damage_named(path, what="the index of a checkpoint"):
        for key, tensor in tensors.items():  # pyright: ignore[reportOptionalMemberAccess]
            if not key.isprintable():
                raise ValueError(f"the name {key!r}")
            dtype, ranges = DTYPES[tensor["dtype"]], {}
            shape = _whole_numbers(tensor["shape"])
            for file, box, start, end in _pieces(tensor["pieces"], dimensions=len(shape)):
                held = found.setdefault(file, {})
                if file not in files or not file.endswith(WEIGHTS_END) or key in held:
                    raise ValueError(f"{key} in the file {brief(file)}, which is none of it, or twice")
                held[key] = (dtype, end - start)
                ranges.setdefault(box, []).append((start, end))
            _check_cover(key, shape, ranges, path=path)
    return Index(tensors=tensors, files=found)  # pyright: ignore[reportArgumentType]


def _check_cover(key: str, whole: tuple[int, ...], ranges: Mapping[Box, list[tuple[int, int]]], *, path: Path) -> None:
    if not is_cover(whole, ranges.keys()) or not all(is_chain(parts, box.numel) for box, parts in ranges.items()):
        raise InputError(
            f"{path}: the pieces of {key} are not its {math.prod(whole):,} numbers, each once: the checkpoint is not"
            " whole; use another"
        )


def _pieces(pieces: Any, *, dimensions: int) -> Iterator[tuple[str, Box, int, int]]:
    """Yield (file, box, start, end) of the pieces of a tensor. Raises ValueError, TypeError, LookupError."""
    if type(pieces) is not list:
        raise TypeError(f"pieces are {brief(pieces)}")
    for piece in pieces:
        offset, shape = (_whole_numbers(piece[name], count=dimensions) for name in ("offset", "shape"))
        start, end = _whole_numbers(piece["range"], count=2)
        yield piece["file"], Box(offset, shape), start, end


def _whole_numbers(value: Any, *, count: int | None = None) -> tuple[int, ...]:
    """A list of `count` sizes or places as a tuple. Raises ValueError."""
    is_list = type(value) is list and len(value) <= MOST_DIMENSIONS and count in (None, len(value))
    if not is_list or not all(type(number) is int and 0 <= number <= MOST_NUMBERS for number in value):
        raise ValueError(f"{brief(value)}, expected a list of {'some' if count is None else count} whole numbers")
    return tuple(value)

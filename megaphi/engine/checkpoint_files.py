"""The checkpoint on disk: tensors of any layout as boxes of whole parameters, in safetensors, with one JSON index.

    step_00000100/
        config.json         the run's configuration (a RunConfig)
        state.json          step, tokens seen, place in the data, versions
        index.json          every tensor: whole shape, type, and its pieces
        rank_00000.safetensors ...   what each rank wrote

A piece is elements [start, end) of a box of the whole tensor, flattened in C order: tensor parallelism makes the
boxes, the distributed optimizer cuts them into ranges. Reading puts any box together from the pieces that overlap it,
so a checkpoint loads under any layout, and a tool reads it without Megatron or process groups. Nothing is pickled.
A folder is written under another name and renamed when complete: a checkpoint that has its name is whole.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megaphi.errors import InputError
from megaphi.files import explain_write_errors, read_json

FORMAT = "megaphi-checkpoint-1"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangular part of a whole tensor."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def overlap(self, other: Box) -> Box | None:
        starts = [max(a, b) for a, b in zip(self.offset, other.offset, strict=True)]
        ends = [
            min(a + m, b + n) for a, m, b, n in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        ]
        if any(start >= end for start, end in zip(starts, ends, strict=True)):
            return None
        return Box(tuple(starts), tuple(end - start for start, end in zip(starts, ends, strict=True)))

    def slices_within(self, outer: Box) -> tuple[slice, ...]:
        """Index of this box in a tensor that holds `outer`."""
        return tuple(
            slice(start - origin, start - origin + size)
            for start, size, origin in zip(self.offset, self.shape, outer.offset, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one rank writes of one tensor."""

    key: str
    whole_shape: tuple[int, ...]
    box: Box
    start: int
    """First element of `values` in the flattened box."""
    values: Tensor
    """One-dimensional."""

    def entry(self, file: str) -> dict[str, Any]:
        """The piece in the index, without its values."""
        return {
            "key": self.key,
            "whole_shape": list(self.whole_shape),
            "dtype": str(self.values.dtype).removeprefix("torch."),
            "file": file,
            "offset": list(self.box.offset),
            "shape": list(self.box.shape),
            "range": [self.start, self.start + self.values.numel()],
        }


def write_pieces(folder: Path, pieces: list[Piece], *, rank: int) -> list[dict[str, Any]]:
    """Write one rank's file, forced to disk; returns the entries for the index."""
    file = f"rank_{rank:05d}.safetensors"
    save_tensors({piece.key: piece.values.detach().cpu().contiguous() for piece in pieces}, folder / file)
    size = (folder / file).stat().st_size
    return [piece.entry(file) | {"file_bytes": size} for piece in pieces]


def save_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file and force it to disk; `InputError` where the disk is full or closed."""
    with explain_write_errors(path):
        try:
            save_file(tensors, path, metadata=metadata)
        except SafetensorError as error:
            raise _as_system_error(error) from None
        with open(path, "rb+") as handle:
            os.fsync(handle.fileno())


def _as_system_error(error: SafetensorError) -> Exception:
    """The operating system's error inside a safetensors one, which carries it as text: "... (os error 28)"."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else error


def build_index(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge all ranks' entries, and make sure that the pieces of every tensor add up to the whole of it."""
    tensors: dict[str, Any] = {}
    files: dict[str, int] = {}
    for entry in entries:
        files[entry["file"]] = entry["file_bytes"]
        tensor = tensors.setdefault(
            entry["key"], {"shape": entry["whole_shape"], "dtype": entry["dtype"], "pieces": []}
        )
        tensor["pieces"].append({name: entry[name] for name in ("file", "offset", "shape", "range")})
    for key, tensor in tensors.items():
        written = sum(end - start for start, end in (piece["range"] for piece in tensor["pieces"]))
        if written != math.prod(tensor["shape"]):
            raise RuntimeError(f"{key}: the ranks wrote {written} of {math.prod(tensor['shape'])} elements")
    return {"format": FORMAT, "files": files, "tensors": tensors}


class CheckpointReader:
    """An open checkpoint. Files are mapped when first used; nothing is read before it is asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = resolve(Path(folder))
        self.index = read_json(self.folder / "index.json", what="checkpoint index")
        if self.index.get("format") != FORMAT:
            raise InputError(f"{self.folder} has the format {self.index.get('format')!r}, expected {FORMAT!r}")
        for file, size in self.index["files"].items():
            self._check_size(self.folder / file, size)
        self._open: dict[str, Any] = {}

    def _check_size(self, path: Path, size: int) -> None:
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"is truncated ({found:,} of {size:,} bytes)"
            raise InputError(f"checkpoint {self.folder}: {path.name} {state}: use another checkpoint")

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json", what="checkpoint configuration")

    @cached_property
    def state(self) -> dict[str, Any]:
        return read_json(self.folder / "state.json", what="checkpoint state")

    @property
    def tensors(self) -> Mapping[str, Any]:
        """Key -> {shape, dtype, pieces}."""
        return self.index["tensors"]

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._entry(key)["shape"])

    def _entry(self, key: str) -> dict[str, Any]:
        if key not in self.tensors:
            raise InputError(f"checkpoint {self.folder} holds no tensor {key!r}: it is of another architecture")
        return self.tensors[key]

    def whole(self, key: str) -> Tensor:
        """A whole tensor, as it was before any rank cut it."""
        shape = self.shape(key)
        return self.read(key, Box((0,) * len(shape), shape)).view(shape)

    def read(self, key: str, box: Box, *, start: int = 0, end: int | None = None) -> Tensor:
        """Elements [start, end) of a flattened box, put together from whatever pieces hold them."""
        entry = self._entry(key)
        end = box.numel if end is None else end
        if all(_box_of(piece) == box for piece in entry["pieces"] if _box_of(piece).overlap(box)):
            return self._read_range(key, box, start=start, end=end)
        filled = torch.empty(box.shape, dtype=DTYPES[entry["dtype"]])
        for stored in {_box_of(piece) for piece in entry["pieces"]}:
            common = stored.overlap(box)
            if common is not None:
                values = self._read_range(key, stored, start=0, end=stored.numel).view(stored.shape)
                filled[common.slices_within(box)] = values[common.slices_within(stored)]
        return filled.view(-1)[start:end]

    def _read_range(self, key: str, box: Box, *, start: int, end: int) -> Tensor:
        """Elements [start, end) of a box that was stored as such."""
        entry = self._entry(key)
        values = torch.empty(end - start, dtype=DTYPES[entry["dtype"]])
        for piece in entry["pieces"]:
            first, last = piece["range"]
            low, high = max(first, start), min(last, end)
            if _box_of(piece) == box and low < high:
                stored = self._file(piece["file"]).get_slice(key)
                values[low - start : high - start] = stored[low - first : high - first]
        return values

    def _file(self, name: str) -> Any:
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.folder / name, framework="pt")
            except SafetensorError as error:
                raise InputError(f"checkpoint {self.folder}: {name} is damaged ({error})") from None
        return self._open[name]


def _box_of(piece: Mapping[str, Any]) -> Box:
    return Box(tuple(piece["offset"]), tuple(piece["shape"]))


def resolve(path: Path) -> Path:
    """A checkpoint folder, from itself, a `checkpoints` folder, a run folder, or a `latest` file."""
    for candidate in (path, path / "latest", path / "checkpoints" / "latest"):
        if candidate.is_file() and candidate.name == "latest":
            return candidate.parent / candidate.read_text().strip()
        if (candidate / "index.json").is_file():
            return candidate
    what = "no such file or folder" if not path.exists() else "neither a checkpoint nor a run folder with one"
    raise InputError(f"checkpoint {path}: {what} (expected a folder with index.json, or a run folder)")

"""The checkpoint on disk: tensors of any layout as boxes of whole parameters, in safetensors, with one JSON index.

    step_00000100/
        config.json         the run's configuration (a RunConfig)
        state.json          step, tokens seen, place in the data, versions
        index.json          every tensor: whole shape, type, and its pieces
        rank_00000.safetensors ...   what each rank wrote; its header repeats the pieces, and which save it is of
        huggingface/        files of the model that the weights came from, where they came from one
        manifest.json       size and SHA-256 of all of these (manifest.py)

A piece is elements [start, end) of a box of the whole tensor, flattened in C order: tensor parallelism makes the
boxes, the distributed optimizer cuts them into ranges. Reading puts any box together from the pieces that overlap it,
so a checkpoint loads under any layout, and a tool reads it without Megatron or process groups. Nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box, flat_offset, whole_box
from megaphi.checkpoint.index import DTYPES, build_index, checked_index
from megaphi.checkpoint.manifest import Manifest, check_content, check_sizes, read_manifest, write_manifest
from megaphi.checkpoint.tensor_file import FileRecord, TensorFile, TensorFileWriter, hash_file
from megaphi.config import LARGEST_INTEGER
from megaphi.errors import InputError
from megaphi.files import copy_files, read_object, write_json, write_text
from megaphi.foreign.files import brief, is_plain_name, read_line, refuse_link_outside
from megaphi.model.architecture import Architecture, checked_architecture, refuse_more_than_stored
from megaphi.model.weights import weights_of
from megaphi.renamed_fields import with_new_names

POSITION = ("step", "samples", "tokens")
"""Fields of the state that say how far a run has come; a conversion knows the step alone."""
SMALL_FILES = ("config.json", "state.json", "index.json")
CARRIED_FOLDER = "huggingface"
_OPEN_FILES = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPiece:
    """The part of a tensor that one rank writes."""

    key: str
    whole_shape: tuple[int, ...]
    box: Box
    start: int
    """Offset of `values[0]` in the flattened box."""
    values: Tensor
    """One-dimensional."""

    @property
    def entry(self) -> dict[str, Any]:
        """The piece as index and file headers describe it."""
        return piece_entry(self.whole_shape, self.box, start=self.start, end=self.start + self.values.numel())


def piece_entry(whole_shape: tuple[int, ...], box: Box, *, start: int, end: int) -> dict[str, Any]:
    """A piece in a file's header: elements [start, end) of the flattened box."""
    return {"whole": list(whole_shape), "offset": list(box.offset), "shape": list(box.shape), "range": [start, end]}


def rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


def file_metadata(pieces: Mapping[str, dict[str, Any]], *, save_id: str, step: int) -> dict[str, str]:
    """The header of a rank's file: what it holds, and which save it is of."""
    return {"save_id": save_id, "step": str(step), "pieces": json.dumps(pieces, separators=(",", ":"))}


def write_rank_file(folder: Path, pieces: Iterable[TensorPiece], *, rank: int, save_id: str, step: int) -> FileRecord:
    """Write one rank's file and sync it to disk; wide dtypes first, so that every tensor is aligned."""
    ordered = sorted(pieces, key=lambda piece: -piece.values.dtype.itemsize)
    metadata = file_metadata({piece.key: piece.entry for piece in ordered}, save_id=save_id, step=step)
    tensors = {piece.key: (piece.values.dtype, tuple(piece.values.shape)) for piece in ordered}
    writer = TensorFileWriter(folder / rank_file(rank), tensors, metadata=metadata)
    try:
        for piece in ordered:
            writer.append(piece.values)
        return writer.close()
    finally:
        writer.abandon()


def finish_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Any],
    files: Mapping[str, FileRecord],
    *,
    save_id: str,
    carried: Mapping[str, Path] | None = None,
) -> Manifest:
    """Add the JSON files, copies of the `carried` files and, last, the manifest to a folder with every rank's
    `files`. Raises InputError if these do not hold every number of every tensor once.
    """
    write_json(folder / "config.json", config)
    write_json(folder / "state.json", state)
    index = build_index(folder, files)
    checked_index(index, files, path=folder / "index.json")
    write_text(folder / "index.json", json.dumps(index, separators=(",", ":")))
    copy_files(carried or {}, folder / CARRIED_FOLDER)
    others = (*SMALL_FILES, *(f"{CARRIED_FOLDER}/{name}" for name in carried or {}))
    records = {name: hash_file(folder / name) for name in others}
    manifest = Manifest(save_id=save_id, step=state["step"], files={**records, **files})
    write_manifest(folder, manifest)
    return manifest


class CheckpointReader:
    """An open checkpoint, and a `WeightReader`. Only the JSON files are read up front.

    Raises:
        InputError: a file is missing or has the wrong size, or a JSON file the wrong content.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = resolve(Path(folder))
        self.manifest = read_manifest(self.folder)
        check_sizes(self.folder, self.manifest)
        for name in SMALL_FILES:
            check_content(self.folder, self.manifest, name)
        self.config = with_new_names(read_object(self.folder / "config.json", what="checkpoint configuration"))
        """The configuration of the run that saved it, under the names that fields have today."""
        self.state = read_object(self.folder / "state.json", what="checkpoint state")
        _check_counts(self.state, where=self.folder / "state.json")
        path = self.folder / "index.json"
        self._index = checked_index(read_object(path, what="checkpoint index"), self.manifest.files, path=path)
        self.tensors = self._index.tensors
        """Key -> {shape, dtype, pieces}; a weight's key is `model/` and its name."""
        self._open: dict[str, TensorFile] = {}

    @property
    def architecture(self) -> Architecture:
        """Raises InputError if the configuration describes none."""
        return self._architecture

    @cached_property
    def _architecture(self) -> Architecture:
        where = self.folder / "config.json"
        if not isinstance(self.config.get("model"), dict):
            raise InputError(f"{where} has no section 'model': it is not the configuration of a run")
        model = checked_architecture(self.config["model"], where=str(where))
        stored = sum(math.prod(entry["shape"]) for key, entry in self.tensors.items() if key.startswith("model/"))
        if stored:  # without any weight it still has a tokenizer, and who reads weights names the first that is missing
            refuse_more_than_stored(model, stored, where=str(self.folder))
        self._check_shapes(model)
        return model

    def _check_shapes(self, model: Architecture) -> None:
        """Refuse a weight, or the optimizer's numbers of one, in another shape than the architecture has."""
        shapes = {weight.name: list(weight.shape) for weight in weights_of(model)}
        for key, entry in self.tensors.items():
            wanted = shapes.get(key.rpartition("/")[2], entry["shape"])
            if entry["shape"] != wanted:
                raise InputError(
                    f"checkpoint {self.folder}: {key} has the shape {brief(entry['shape'])}, expected {wanted}"
                )

    @property
    def carried(self) -> dict[str, Path]:
        prefix = f"{CARRIED_FOLDER}/"
        names = [name for name in self.manifest.files if name.startswith(prefix)]
        if names and (self.folder / CARRIED_FOLDER).is_symlink():
            raise InputError(f"{self.folder / CARRIED_FOLDER} is a link: nothing is copied from where it leads")
        for name in names:
            refuse_link_outside(self.folder / name)
            check_content(self.folder, self.manifest, name)
        return {name.removeprefix(prefix): self.folder / name for name in names}

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._entry(f"model/{name}")["dtype"]]

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of a weight's matrix form."""
        shape = self.shape(f"model/{name}")
        width = math.prod(shape[1:]) if len(shape) < 3 else shape[-1]
        values = self.read(f"model/{name}", whole_box(shape), start=start * width, end=end * width)
        return values if len(shape) == 1 else values.view(-1, width)

    def box(self, name: str, box: Box) -> Tensor:
        return self.read_box(f"model/{name}", box)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._entry(key)["shape"])

    def _entry(self, key: str) -> dict[str, Any]:
        if key not in self.tensors:
            raise InputError(f"checkpoint {self.folder} holds no tensor {key!r}: it is of another architecture")
        return self.tensors[key]

    def whole(self, key: str) -> Tensor:
        """A whole tensor, as it was before any rank cut it."""
        return self.read_box(key, whole_box(self.shape(key)))

    def slabs(self, key: str, *, elements: int = 1 << 24) -> Iterator[Tensor]:
        """A whole tensor in flat parts of at most about `elements` numbers, in order: for tensors of any size."""
        shape = self.shape(key)
        for start in range(0, math.prod(shape), elements):
            yield self.read(key, whole_box(shape), start=start, end=min(start + elements, math.prod(shape)))

    def read(self, key: str, box: Box, *, start: int = 0, end: int | None = None) -> Tensor:
        """Elements [start, end) of a flattened box."""
        end = box.numel if end is None else end
        parts, passed = [torch.empty(0, dtype=DTYPES[self._entry(key)["dtype"]])], 0
        for slab in box.slabs():
            low, high = max(start - passed, 0), min(end - passed, slab.numel)
            if low < high:
                matrix = Box(slab.offset[-2:], slab.shape[-2:]).rows_for(low, high)
                held = Box((*slab.offset[:-2], *matrix.offset), (*slab.shape[:-2], *matrix.shape))
                skipped = flat_offset(held, slab)
                parts.append(self.read_box(key, held).view(-1)[low - skipped : high - skipped])
            passed += slab.numel
        return torch.cat(parts) if len(parts) > 2 else parts[-1]

    def read_box(self, key: str, box: Box) -> Tensor:
        """A box, in its shape, assembled from the pieces that overlap it."""
        entry = self._entry(key)
        filled = torch.empty(box.shape, dtype=DTYPES[entry["dtype"]])
        by_box: dict[Box, list[dict[str, Any]]] = {}
        for piece in entry["pieces"]:
            by_box.setdefault(Box(tuple(piece["offset"]), tuple(piece["shape"])), []).append(piece)
        for stored, pieces in by_box.items():
            common = stored.overlap(box)
            for slab in common.slabs() if common is not None else ():
                self._fill(filled[slab.slices_within(box)], key, slab, stored, pieces)
        return filled

    def _fill(self, target: Tensor, key: str, slab: Box, stored: Box, pieces: list[dict[str, Any]]) -> None:
        """Fill `target` with `slab`, a part of the box `stored`, which the pieces hold in ranges."""
        rows = slab if len(slab.shape) == 1 else Box(
            (*slab.offset[:-1], stored.offset[-1]), (*slab.shape[:-1], stored.shape[-1])
        )  # fmt: skip
        first = flat_offset(rows, stored)
        direct = target.is_contiguous() and rows == slab
        values = target.view(-1) if direct else torch.empty(rows.numel, dtype=target.dtype)
        for piece in pieces:
            start, end = piece["range"]
            low, high = max(start, first), min(end, first + rows.numel)
            if low < high:
                file = self._file(piece["file"])
                place = file.entries[key].first_byte + (low - start) * target.dtype.itemsize
                file.read_into(values[low - first : high - first], place)
        if not direct:
            target.copy_(values.view(rows.shape)[slab.slices_within(rows)])

    def _file(self, name: str) -> TensorFile:
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:  # a checkpoint may have more files than a process may have open
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[name] = self._index.checked(TensorFile(self.folder / name), name)
            except InputError as error:
                raise InputError(f"checkpoint {self.folder}: {error}: use another checkpoint") from None
        return self._open[name]


def _check_counts(state: Mapping[str, Any], *, where: Path) -> None:
    for name in POSITION:
        count = state.get(name, 0)
        if type(count) is not int or not 0 <= count <= LARGEST_INTEGER:
            raise InputError(f"{where}: {name} is {brief(count)}, expected a whole number")


def resolve(path: Path) -> Path:
    """A checkpoint folder, from itself, a `checkpoints` folder, a run folder, or a `latest` file."""
    for candidate in (path, path / "latest", path / "checkpoints" / "latest"):
        if candidate.name == "latest" and candidate.exists() and not candidate.is_dir():
            name = read_line(candidate)
            if not is_plain_name(name):
                raise InputError(f"{candidate} holds {brief(name)}, expected the name of a checkpoint's folder")
            return candidate.parent / name
        if (candidate / "manifest.json").is_file():
            return candidate
    what = "no such file or folder" if not path.exists() else "neither a checkpoint nor a run folder with one"
    raise InputError(f"checkpoint {path}: {what} (expected a folder with manifest.json, or a run folder)")

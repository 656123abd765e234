"""A Hugging Face folder (`Phi3ForCausalLM`, `LlamaForCausalLM`) as a `WeightReader`: any rows of ours, when asked for.

Opening reads config.json, the index and the files' headers, and checks every tensor's name, shape and type against the
configuration: a folder that does not fit is refused before anything is written. Rows are then read by position,
directly into their destination, in the order of our table (weight_names.py).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.tensor_file import TensorFile
from megaphi.checkpoint.weight_reader import box_from_rows
from megaphi.config import to_plain
from megaphi.conversion.formats.huggingface.config import architecture_from, context_from
from megaphi.conversion.formats.huggingface.form import variant_and_form
from megaphi.conversion.formats.side_files import CONFIG, carried_files
from megaphi.conversion.formats.streaming import row_blocks
from megaphi.conversion.formats.weight_names import KNOWN_AND_DROPPED, our_table, segments_within, their_shapes
from megaphi.errors import InputError
from megaphi.files import read_json, read_object
from megaphi.foreign.files import SMALL_BYTES, brief, is_plain_name
from megaphi.log import logger
from megaphi.model.architecture import Architecture, refuse_more_than_stored
from megaphi.model.rows.weight_row import Naming
from megaphi.model.weights import EMBEDDING, OUTPUT

HEAD = "lm_head.weight"
INDEX, ONE_FILE = "model.safetensors.index.json", "model.safetensors"


class HuggingFaceWeights:
    """An open folder.

    Raises:
        InputError: a model that we cannot build, a missing or corrupted file, or weights that do not fit config.json.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.original = read_object(self.folder / CONFIG, what="Hugging Face configuration")
        """config.json, parsed."""
        where = str(self.folder / CONFIG)
        self.architecture: Architecture = architecture_from(self.original, where=where)
        self._file_of = _open_files(self.folder)
        stored = sum(file.entries[name].numel for name, file in self._file_of.items())
        refuse_more_than_stored(self.architecture, stored, where=str(self.folder))
        naming = variant_and_form(self.original, where=where)[1].naming
        if self.architecture.tied_embeddings and HEAD in self._file_of:
            self.architecture = self._tied_or_not(naming)
        self._table = our_table(self.architecture, naming)
        self._check_tensors()
        self.config: dict[str, Any] = {
            "recipe": "from_huggingface",
            "model": to_plain(self.architecture),
            "batch": {"sequence_length": context_from(self.original, where=where)},
            "precision": {"parameters": str(self.dtype(EMBEDDING)).removeprefix("torch.")},
        }
        self.state: dict[str, Any] = {"step": 0, "imported_from": self.folder.resolve().name}

    @property
    def carried(self) -> dict[str, Path]:
        return carried_files(self.folder)

    def dtype(self, name: str) -> torch.dtype:
        theirs = self._table[name][0].tensor
        return self._file_of[theirs].entries[theirs].dtype

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of the matrix form of our weight `name`."""
        theirs = self._table[name][0].tensor
        entry = self._file_of[theirs].entries[theirs]
        values = torch.empty((end - start, *entry.shape[1:]), dtype=entry.dtype)
        row_bytes = math.prod(entry.shape[1:]) * entry.dtype.itemsize
        filled = 0
        for segment in segments_within(self._table[name], start, end):
            file = self._file_of[segment.tensor]
            place = file.entries[segment.tensor].first_byte + segment.first * row_bytes
            file.read_into(values[filled : filled + segment.rows], place)
            filled += segment.rows
        return values

    def box(self, name: str, box: Box) -> Tensor:
        return box_from_rows(self, name, box)

    def _tied_or_not(self, naming: Naming) -> Architecture:
        """Warn of a tied model that also stores an output layer: transformers uses the stored one if it differs."""
        untied = replace(self.architecture, tied_embeddings=False)
        self._table = our_table(untied, naming)
        self.architecture = untied
        self._check_tensors()
        if self.dtype(OUTPUT) == self.dtype(EMBEDDING):
            blocks = row_blocks(0, untied.vocabulary, columns=untied.hidden)
            if all(torch.equal(self.rows(OUTPUT, *block), self.rows(EMBEDDING, *block)) for block in blocks):
                return replace(untied, tied_embeddings=True)
        logger.warning(
            "%s: %s says that the output layer is the embedding, and another %s is stored: that one is used, as by"
            " transformers 5; other programs may not use it",
            *(self.folder, CONFIG, HEAD),
        )
        return untied

    def _check_tensors(self) -> None:
        shapes = their_shapes(self.architecture, self._table)
        ignored = (*KNOWN_AND_DROPPED, HEAD) if self.architecture.tied_embeddings else KNOWN_AND_DROPPED
        found = {name for name in self._file_of if not name.endswith(ignored)}
        missing, unknown = shapes.keys() - found, found - shapes.keys()
        if missing or unknown:
            raise InputError(
                f"{self.folder}: the weights do not fit {CONFIG}: "
                f"missing {sorted(missing)[:3] or 'none'}, unknown {sorted(unknown)[:3] or 'none'}"
            )
        for name, shape in shapes.items():
            stored = self._file_of[name].entries[name].shape
            if stored != shape:
                raise InputError(f"{self.folder}: {name} has the shape {stored}, {CONFIG} says {shape}")
        for name, segments in self._table.items():
            types = {self._file_of[part.tensor].entries[part.tensor].dtype for part in segments}
            if len(types) > 1 or not all(dtype.is_floating_point for dtype in types):
                listed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
                raise InputError(f"{self.folder}: the parts of {name} are {listed}, expected one floating-point type")


def _open_files(folder: Path) -> dict[str, TensorFile]:
    """Tensor -> its file, from the index if there is one; weight files that the index omits are refused."""
    if not (folder / INDEX).is_file():
        _check_there(folder / ONE_FILE)
        _refuse_others(folder, {ONE_FILE})
        file = TensorFile(folder / ONE_FILE)
        return dict.fromkeys(file.entries, file)
    listed = read_json(folder / INDEX, what="weight index", largest=SMALL_BYTES)
    weight_map = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{folder / INDEX} is corrupted: it has no 'weight_map' of tensors and their files")
    files: dict[str, TensorFile] = {}
    for name in sorted(set(weight_map.values())):
        if not is_plain_name(name):
            raise InputError(f"{folder / INDEX} names the file {brief(name)}, which is not in the same folder")
        files[name] = TensorFile(folder / name)
    _refuse_others(folder, set(files))
    for tensor, name in weight_map.items():
        if tensor not in files[name].entries:
            raise InputError(f"{folder / INDEX} says that {name} holds {tensor}, and it does not: download both again")
    for name, file in files.items():
        for tensor in file.entries:
            if weight_map.get(tensor) != name and not tensor.endswith(KNOWN_AND_DROPPED):
                where = weight_map.get(tensor, "nowhere")
                raise InputError(
                    f"{folder / name} holds {tensor}, which {INDEX} says is in {where}: download both again"
                )
    return {tensor: files[name] for tensor, name in weight_map.items()}


def _refuse_others(folder: Path, named: set[str]) -> None:
    """Refuse an adapter, a separate head, or a shard that the index omits; Meta's original files are mere copies."""
    others = {path.name for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated")} - named
    if others:
        raise InputError(
            f"{folder}: {', '.join(sorted(others))}: weights that {INDEX} does not name; merge or remove them"
        )


def _check_there(path: Path) -> None:
    if path.is_file():
        return
    shards = sorted(path.parent.glob("model-*-of-*.safetensors"))
    if shards:
        raise InputError(
            f"{path.parent / INDEX} is missing: it says which of the {len(shards)} files holds which weight"
        )
    pickled = next(path.parent.glob("*.bin"), None)
    remedy = f" ({pickled.name} is a pickle, and not read: save_pretrained() writes safetensors)" if pickled else ""
    raise InputError(f"{path} is missing: expected the weights of a Hugging Face model in safetensors files{remedy}")

"""A Megatron-LM checkpoint (`torch_dist`) of a GPT model as a `WeightReader`: any rows of ours, on demand.

Our model is Megatron's too, so names and the order of rows are the same. Layers are stacked in one tensor, or numbered
one by one; norms have their own names or, with Transformer Engine, those of the layers that hold them. Most of the
architecture follows from shapes, the rest from the run's arguments (arguments.py) or from `field=value`. Optimizer and
random states are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.weight_reader import box_from_rows
from megaphi.config import LARGEST_INTEGER, to_plain
from megaphi.conversion.formats.megatron.arguments import COMMON, read_arguments, refuse_arguments
from megaphi.conversion.formats.megatron.torch_dist import METADATA, TorchDistFolder
from megaphi.errors import InputError, did_you_mean
from megaphi.files import read_json
from megaphi.foreign.files import brief, damage_named, read_line
from megaphi.model.architecture import Architecture, checked_architecture, refuse_more_than_stored
from megaphi.model.rows.weight_row import LAYERS
from megaphi.model.weights import EMBEDDING, OUTPUT, weights_of

POINTER, DESCRIPTION = "latest_checkpointed_iteration.txt", "metadata.json"
NOT_WEIGHTS = re.compile(r"(^|\.)(optimizer|chained_\d+|rng_state|rerun_state_machine)|_extra_state|inv_freq")
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "heads": ("num_attention_heads",),
    "rotary_base": ("rotary_base",),
    "norm_eps": ("norm_epsilon", "layernorm_epsilon"),
}
"""Fields of the architecture that shapes do not determine -> Megatron-LM's arguments."""
FIELDS = (*ARGUMENTS, "head_size", "vocabulary", "sequence_length")
IGNORE = "ignore"
"""`ignore=NAME,NAME`: arguments that change nothing, which only the user can know."""


class MegatronWeights:
    """An open checkpoint.

    Args:
        path: a folder `iter_0001000`, or the one above it with `latest_checkpointed_iteration.txt`.
        fields: `field=value` for fields that the checkpoint does not store: heads, head_size, rotary_base, norm_eps,
            vocabulary (rows without padding), sequence_length; ignore=NAME,NAME for arguments that change nothing.

    Raises:
        InputError: it is corrupted or hostile, of another architecture, or does not describe it completely.
    """

    def __init__(self, path: str | Path, fields: Sequence[str] = ()) -> None:
        self.folder = iteration_folder(Path(path))
        self._stored = TorchDistFolder(self.folder)
        self._prefix = self._find_prefix()
        self._held_elsewhere: Mapping[str, str | None] = {}
        given, ignored = _parsed(fields)
        arguments, iteration = read_arguments(self.folder, stored=self._stored)
        tied = self._prefix + OUTPUT not in self._stored.tensors
        refuse_arguments(arguments, tied=tied, ignored=ignored, where=str(self.folder))
        self.architecture = self._read_architecture(given, arguments, tied=tied)
        self._held_elsewhere = {one.name: one.transformer_engine for one in weights_of(self.architecture)}
        self._check_tensors()
        with damage_named(self.folder, what="a checkpoint that says how long its texts are"):
            length = _exact_number(given.get("sequence_length", arguments.get("seq_length")) or 0)
        self.config: dict[str, Any] = {
            "recipe": "from_megatron",
            "model": to_plain(self.architecture),
            "batch": {"sequence_length": length} if length else {},
            "precision": {"parameters": str(self.dtype(EMBEDDING)).removeprefix("torch.")},
        }
        self.state: dict[str, Any] = {"step": 0, "imported_from": self.folder.name, "megatron_iteration": iteration}
        self.carried: dict[str, Path] = {}

    def dtype(self, name: str) -> torch.dtype:
        return self._stored.tensors[self._place(name)[0]].dtype

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows [start, end) of the matrix form of our weight `name`."""
        key, above = self._place(name)
        return self._stored.rows(key, above, start, end)

    def box(self, name: str, box: Box) -> Tensor:
        return box_from_rows(self, name, box)

    def _place(self, name: str) -> tuple[str, tuple[int, ...]]:
        """(tensor, index within it) of one of our weights."""
        held_elsewhere = self._held_elsewhere.get(name)
        for theirs in (name, held_elsewhere) if held_elsewhere else (name,):
            stacked, index = _of_all_layers(theirs)
            for key, above in ((stacked, index), (theirs, ())):
                if self._prefix + key in self._stored.tensors:
                    return self._prefix + key, above
        key, above = _of_all_layers(name)
        return self._prefix + key, above

    def _find_prefix(self) -> str:
        found = [key for key in self._stored.tensors if key.endswith(EMBEDDING) and not NOT_WEIGHTS.search(key)]
        if len(found) != 1:
            raise InputError(f"{self.folder} holds {len(found)} tensors named {EMBEDDING}: it is no GPT checkpoint")
        return found[0].removesuffix(EMBEDDING)

    def _read_architecture(
        self, given: Mapping[str, float], arguments: Mapping[str, Any], *, tied: bool
    ) -> Architecture:
        told = {
            field: given.get(field, next((arguments[name] for name in names if arguments.get(name)), None))
            for field, names in ARGUMENTS.items()
        }
        missing = [f"{field}=..." for field, value in told.items() if value is None]
        if missing:
            raise InputError(
                f"{self.folder} does not say all of its architecture ({COMMON} lacks it): add {' '.join(missing)}"
            )
        layer = f"{LAYERS}0."
        query_width = self._columns(f"{layer}self_attention.linear_proj.weight")
        qkv_rows = self._rows(f"{layer}self_attention.linear_qkv.weight")
        with damage_named(self.folder, what="a checkpoint whose sizes fit each other"):
            heads = _exact_number(told["heads"])
            head_size = _exact_number(given.get("head_size", query_width // heads))
            groups = (qkv_rows - query_width) // (2 * head_size)
        sizes = {
            "layers": self._layers(),
            "hidden": self._columns(EMBEDDING),
            "feed_forward": self._rows(f"{layer}mlp.linear_fc1.weight") // 2,
            "heads": heads,
            "key_value_groups": groups,
            "head_size": head_size,
            "vocabulary": given.get("vocabulary", self._rows(EMBEDDING)),
            "tied_embeddings": tied,
            "norm_eps": told["norm_eps"],
            "rotary_base": told["rotary_base"],
        }
        model = checked_architecture(sizes, where=str(self.folder))
        stored = sum(math.prod(tensor.shape) for tensor in self._stored.tensors.values())
        refuse_more_than_stored(model, stored, where=str(self.folder))
        if model.vocabulary > self._rows(EMBEDDING):
            raise InputError(f"vocabulary={model.vocabulary}: the embedding has {self._rows(EMBEDDING):,} rows")
        return model

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of the matrix form."""
        key, above = self._place(name)
        if key not in self._stored.tensors:
            raise InputError(f"{self.folder} holds no tensor {key}: it is of another architecture, or not whole")
        shape = self._stored.tensors[key].shape[len(above) :]
        if len(shape) not in (1, 2):
            raise InputError(
                f"{self.folder}: {key} has the shape {self._stored.tensors[key].shape}, which is no matrix"
            )
        return shape

    def _rows(self, name: str) -> int:
        return self._shape(name)[0]

    def _columns(self, name: str) -> int:
        return self._shape(name)[-1]

    def _layers(self) -> int:
        key, above = self._place(f"{LAYERS}0.mlp.linear_fc2.weight")
        if above:
            return self._stored.tensors[key].shape[0]
        numbers = (re.search(rf"{re.escape(LAYERS)}(\d+)\.", key) for key in self._stored.tensors)
        return 1 + max(int(match[1]) for match in numbers if match)

    def _check_tensors(self) -> None:
        """Check that every weight is there, whole and in its shape, and that the model has no other tensors."""
        used = set()
        for weight in weights_of(self.architecture):
            found, (key, _) = self._shape(weight.name), self._place(weight.name)
            rows, rest = found[0], found[1:]
            may_be_padded = weight.has_token_rows and rows >= weight.rows
            expected_rest = (weight.columns,) if weight.is_matrix else ()
            if (rows != weight.rows and not may_be_padded) or rest != expected_rest:
                raise InputError(
                    f"{self.folder}: {key} holds {list(found)}, and {[weight.rows, *expected_rest]} is needed"
                )
            used.add(key)
        for key in used:
            self._stored.check(key)
        unknown = [key for key in self._stored.tensors if key not in used and not NOT_WEIGHTS.search(key)]
        if unknown:
            raise InputError(f"{self.folder} holds {unknown[0]}, which has no place in our architecture")


def _exact_number(value: Any) -> int:
    """A whole number from 0, which may be written as 6.0. Raises ValueError, TypeError, OverflowError."""
    if isinstance(value, bool) or not 0 <= value <= LARGEST_INTEGER or value != int(value):
        raise ValueError(f"{brief(value)}, expected a whole number")
    return int(value)


def _of_all_layers(name: str) -> tuple[str, tuple[int, ...]]:
    """(name of the tensor in which all layers' weights of a kind are stacked, index within it)"""
    match = re.fullmatch(rf"{re.escape(LAYERS)}(\d+)\.(.+)", name)
    return (name, ()) if match is None else (f"{LAYERS}{match[2]}", (int(match[1]),))


def is_megatron(path: Path) -> bool:
    """A `torch_dist` folder, or the folder above it."""
    return (path / POINTER).is_file() or ((path / METADATA).is_file() and (path / DESCRIPTION).is_file())


def iteration_folder(path: Path) -> Path:
    """The folder of one iteration; of the newest, if `path` is the one above."""
    if (path / POINTER).is_file():
        iteration = read_line(path / POINTER)
        name = "release" if iteration == "release" else f"iter_{iteration:0>7}"
        if not re.fullmatch(r"release|iter_\d{7,}", name) or not (path / name).is_dir():
            raise InputError(f"{path / POINTER} names the iteration {iteration[:20]!r}, which is not there")
        path = path / name
    described = read_json(path / DESCRIPTION, what="Megatron checkpoint description")
    backend = described.get("sharded_backend") if isinstance(described, dict) else None
    if backend != "torch_dist":
        raise InputError(f"{path / DESCRIPTION}: sharded_backend is {backend!r}, and only 'torch_dist' can be read")
    return path


def _parsed(fields: Sequence[str]) -> tuple[dict[str, float], set[str]]:
    """Parse `fields`: (fields of the architecture, names of arguments to ignore)."""
    found, ignored = {}, set()
    for field in fields:
        name, _, value = field.partition("=")
        name = name.removeprefix("model.")
        if name == IGNORE:
            ignored |= set(value.split(","))
            continue
        if name not in FIELDS:
            known = (*FIELDS, IGNORE)
            raise InputError(f"{field}: the fields to give here are {', '.join(known)}.{did_you_mean(name, known)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"{field}: {value!r} is not a number") from None
    return found, ignored

"""The random generators of a rank, as bytes in its checkpoint file.

Our own training draws nothing from them: data order is keyed, initial weights have generators of their own, and there
is no dropout. They are saved for models that do draw, and restored under the same layout; under another layout a rank
has no counterpart to take them from.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from torch import Tensor

from megaphi.checkpoint.box import whole_box
from megaphi.checkpoint.format import CheckpointReader, TensorPiece
from megaphi.parallel.world import World

_MEGATRON = "megatron/"


def random_pieces(world: World) -> Iterator[TensorPiece]:
    """This rank's generators: Python's, NumPy's, torch's, the device's, and Megatron's named ones."""
    for name, values in _states(world).items():
        shape = tuple(values.shape)
        yield TensorPiece(key=_key(world, name), whole_shape=shape, box=whole_box(shape), start=0, values=values)


def _key(world: World, name: str) -> str:
    return f"random/{world.rank:05d}/{name}"


def _states(world: World) -> dict[str, Tensor]:
    version, words, gauss = random.getstate()
    kind, key, *rest = np.random.get_state()
    states = {
        "python": _bytes([version, words, gauss]),
        "numpy": _bytes([kind, np.asarray(key).tolist(), *rest]),
        "torch": torch.get_rng_state(),
    }
    if world.device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state()
    for name, state in get_cuda_rng_tracker().get_states().items():  # pyright: ignore[reportOptionalMemberAccess]
        states[_MEGATRON + name] = state.cpu()
    return states


def _bytes(plain: list[object]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)


def restore_random_states(reader: CheckpointReader, world: World) -> bool:
    """Restore the generators; False if the checkpoint has none for this rank."""
    prefix = _key(world, "")
    states = {key.removeprefix(prefix): reader.whole(key) for key in reader.tensors if key.startswith(prefix)}
    if "torch" not in states:
        return False
    _set_states(states, world)
    return True


@contextmanager
def same_random_states(world: World) -> Iterator[None]:
    """Put back all generators after the block."""
    states = _states(world)
    try:
        yield
    finally:
        _set_states(states, world)


def _set_states(states: Mapping[str, Tensor], world: World) -> None:
    version, words, gauss = json.loads(states["python"].numpy().tobytes())
    random.setstate((version, tuple(words), gauss))
    kind, key, *rest = json.loads(states["numpy"].numpy().tobytes())
    np.random.set_state((kind, np.asarray(key, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if world.device.type == "cuda" and "device" in states:
        torch.cuda.set_rng_state(states["device"])
    named = {name.removeprefix(_MEGATRON): state for name, state in states.items() if name.startswith(_MEGATRON)}
    get_cuda_rng_tracker().set_states(named)  # pyright: ignore[reportOptionalMemberAccess]

"""Save and load a run: weights, optimizer state, step, place in the data, configuration, versions.

Every rank writes what it owns, in its own file; nothing is gathered. `latest` names the newest checkpoint and moves
only after that one is complete under its own name. Loading is by name and box, so any layout reads any checkpoint;
under the layout that wrote it, a run continues bit for bit.
"""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from torch import Tensor

from megaphi.config import to_plain
from megaphi.engine.checkpoint_files import (
    Box,
    CheckpointReader,
    Piece,
    finish_checkpoint,
    rank_file,
    write_rank_file,
)
from megaphi.engine.optimizer import set_update_count, state_pieces
from megaphi.engine.training_model import TrainingModel, whole_parameters
from megaphi.engine.weight_reader import WeightReader
from megaphi.errors import InputError, ReportedElsewhere
from megaphi.files import publish_folder, write_text
from megaphi.log import logger
from megaphi.model.initialize import ParameterShare, parameter_shares
from megaphi.parallel.world import World

Answer = TypeVar("Answer")


def save_checkpoint(model: TrainingModel, state: dict[str, Any]) -> Path:
    """Write `checkpoints/step_00000100` and move `latest` to it. Collective; returns the folder.

    `state` is JSON-ready and must hold `step`, the number of updates done.
    """
    folder = checkpoint_folder(model.run.run.folder, state["step"])
    partial = folder.with_name(f".{folder.name}.partial")
    world = model.world
    agreed(world, lambda: _empty_folder(partial) if world.is_main else None)
    run = _run_name(world)
    with whole_parameters(model):
        record = agreed(
            world, lambda: write_rank_file(partial, _pieces(model), rank=world.rank, run=run, step=state["step"])
        )
    gathered: list[Any] | None = [None] * world.size if world.is_main else None
    distributed.gather_object(record, gathered)

    def complete() -> None:
        if gathered is None:
            return
        files = {rank_file(rank): record for rank, record in enumerate(gathered)}
        finish_checkpoint(partial, to_plain(model.run), {**state, "versions": versions()}, files, run=run)
        publish_folder(partial, folder)
        write_text(folder.parent / "latest", folder.name + "\n")
        _delete_old(folder, keep=model.run.run.keep_last)

    agreed(world, complete)
    return folder


def _run_name(world: World) -> str:
    """Tells the files of this process set from any other's."""
    name = [secrets.token_hex(6)]
    distributed.broadcast_object_list(name, src=0)
    return name[0]


def checkpoint_folder(run_folder: str, step: int) -> Path:
    return Path(run_folder) / "checkpoints" / f"step_{step:08d}"


def _empty_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _delete_old(newest: Path, *, keep: int) -> None:
    """Keep `newest` and the `keep` - 1 before it (0: all), and drop what interrupted saves left behind.

    Checkpoints of later steps stay: they are of a run that went back, and not ours to judge.
    """
    found = sorted(path for path in newest.parent.iterdir() if re.fullmatch(r"step_\d{8}", path.name))
    earlier = [path for path in found if path.name <= newest.name]
    for path in earlier[:-keep] if keep else []:
        shutil.rmtree(path)
    for path in newest.parent.glob(".step_*"):
        shutil.rmtree(path)


def _pieces(model: TrainingModel) -> Iterator[Piece]:
    """What this rank writes: an equal part of every weight it holds, and the optimizer state that it owns.

    Padding of the vocabulary is left out; so may be all that a rank holds of a tensor.
    """
    replicas = parallel_state.get_data_parallel_world_size(with_context_parallel=True)
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    for module in model.modules:
        for share in parameter_shares(module):
            if not share.is_first_copy:
                continue
            flat = share.parameter.detach().view(-1)[: share.numel]
            start, end = (flat.numel() * part // replicas for part in (replica, replica + 1))
            yield from _piece(f"model/{share.name}", share, start, flat[start:end])
            owned = state_pieces(model.optimizer, share.parameter)
            if owned is None:
                continue
            for name, values in owned.tensors.items():
                yield from _piece(f"optimizer/{name}/{share.name}", share, owned.start, values)


def _piece(key: str, share: ParameterShare, start: int, values: Tensor) -> Iterator[Piece]:
    """`values` begin at element `start` of the flattened parameter."""
    start, end = share.without_padding(start, start + values.numel())
    if start < end:
        box = Box(share.offset, share.shape)
        yield Piece(key=key, whole_shape=share.whole_shape, box=box, start=start, values=values[: end - start])


@torch.no_grad()
def load_checkpoint(model: TrainingModel, folder: str | Path, *, weights_only: bool = False) -> dict[str, Any]:
    """Fill the model (and the optimizer, unless `weights_only`) from a checkpoint; returns its state.

    Raises:
        InputError: the checkpoint is incomplete, damaged, or of another architecture.
    """

    def load() -> dict[str, Any]:
        reader = CheckpointReader(folder)
        check_same_architecture(reader, model)
        with whole_parameters(model):
            for module in model.modules:
                for share in parameter_shares(module):
                    load_weight(reader, share)
            model.optimizer.reload_model_params()
            if not weights_only:
                _load_optimizer(reader, model)
        return reader.state

    return agreed(model.world, load)


def load_weight(reader: WeightReader, share: ParameterShare) -> None:
    """Fill one parameter of this rank from a checkpoint."""
    is_padding = share.numel == 0
    share.fill(torch.empty(0) if is_padding else reader.box(share.name, Box(share.offset, share.shape)))


def _load_optimizer(reader: CheckpointReader, model: TrainingModel) -> None:
    for module in model.modules:
        for share in parameter_shares(module):
            owned = state_pieces(model.optimizer, share.parameter)
            if owned is None:
                continue
            box = Box(share.offset, share.shape)
            start, end = share.without_padding(owned.start, owned.end)
            for name, values in owned.tensors.items():
                key = f"optimizer/{name}/{share.name}"
                if key not in reader.tensors and name == "main":
                    continue  # saved in fp32: the weights themselves, already loaded
                values[: end - start].copy_(reader.read(key, box, start=start, end=end))
                values[end - start :].zero_()
    set_update_count(model.optimizer, reader.state["step"])


def check_same_architecture(reader: WeightReader, model: TrainingModel) -> None:
    """Refuse a checkpoint of another shape, naming the fields that differ."""
    stored, wanted = reader.config["model"], to_plain(model.run.model)
    differing = [name for name in wanted if stored.get(name) != wanted[name] and name != "initial_std"]
    if differing:
        listed = ", ".join(f"model.{name} is {stored.get(name)}, the run has {wanted[name]}" for name in differing)
        raise InputError(f"checkpoint {reader.folder} is of another architecture: {listed}")


def agreed(world: World, action: Callable[[], Answer]) -> Answer:
    """Run `action` on every rank; if it fails with an `InputError` anywhere, all ranks stop, and one speaks for all."""
    answer, message = None, None
    try:
        answer = action()
    except InputError as error:
        message = str(error)
    messages: list[str | None] = [None] * world.size
    distributed.all_gather_object(messages, message)
    failed = [rank for rank, text in enumerate(messages) if text is not None]
    if failed:
        if world.is_main:
            where = f" (on rank {failed[0]} of {world.size})" if failed[0] else ""
            raise InputError(f"{messages[failed[0]]}{where}")
        raise ReportedElsewhere
    return answer  # pyright: ignore[reportReturnType]


def versions() -> dict[str, str]:
    """What made a checkpoint: package versions, Python, and the commit of the source tree if there is one."""
    packages = ("megaphi", "torch", "megatron-core", "numpy", "safetensors")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            logger.debug("%s is not installed as a package", package)
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    if git.returncode == 0:
        found["commit"] = git.stdout.strip()
    return found

"""Each rank's part of a checkpoint: the pieces that it writes, and the boxes that it reads.

Every rank writes what it owns to its own file; nothing is gathered. Loading is by name and box, so any layout reads any
checkpoint; under the layout that wrote it, a run continues bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from megatron.core import parallel_state
from torch import Tensor

from megaphi.checkpoint.box import Box
from megaphi.checkpoint.format import CheckpointReader, TensorPiece
from megaphi.checkpoint.model_tokenizer import context_of
from megaphi.checkpoint.not_finite import NotFinite
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.config import to_plain
from megaphi.engine.model.optimizer import set_update_count, state_pieces
from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.engine.saving.random_states import restore_random_states
from megaphi.errors import InputError
from megaphi.log import logger
from megaphi.model.architecture import HOW_IT_IS_COMPUTED
from megaphi.model.initialize import ParameterShare, parameter_shares
from megaphi.model.padded_model import PaddedModel
from megaphi.model.weights import in_any_layer, stored_name, weights_of
from megaphi.parallel.agreement import agreed
from megaphi.parallel.layout import ParallelLayout

_BLOCK_NUMBERS = 1 << 20
"""Numbers that are read, looked at and placed together: few enough that they stay in the processor's cache."""


def pieces_of(model: TrainingModel) -> Iterator[TensorPiece]:
    """Yield the pieces that this rank writes: an equal part of every weight it holds, and the optimizer state it owns.

    Padding of the vocabulary is left out, which may be everything that a rank holds of a tensor.
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


def _piece(key: str, share: ParameterShare, start: int, values: Tensor) -> Iterator[TensorPiece]:
    """A piece whose `values` begin at element `start` of the flattened parameter, without padding."""
    start, end = share.without_padding(start, start + values.numel())
    if start < end:
        box = Box(share.offset, share.shape)
        yield TensorPiece(key=key, whole_shape=share.whole_shape, box=box, start=start, values=values[: end - start])


@torch.no_grad()
def load_checkpoint(model: TrainingModel, folder: str | Path) -> CheckpointReader:
    """Load weights, optimizer and, under the same layout, random states; returns the open checkpoint. Collective.

    Raises:
        InputError: it is incomplete, corrupted, or of another architecture.
    """

    def load() -> CheckpointReader:
        reader = CheckpointReader(folder)
        check_same_architecture(reader, model)
        strange = _load_parameters(model, reader)
        _load_optimizer(reader, model, strange)
        strange.refuse(reader.folder)
        if not _is_same_layout(reader, model) or not restore_random_states(reader, model.world):
            logger.info("  saved under another layout: random generators are reseeded")
        return reader

    return agreed(model.world, load)


@torch.no_grad()
def load_weights(model: TrainingModel, reader: WeightReader) -> None:
    """Load weights of any origin, which must be the same on every rank. Collective. Raises InputError.

    An untied model can load a tied one: its output layer begins as a copy of the embedding. A run on longer sequences
    than the model was made for can have another rotary base.
    """

    def load() -> bool:
        unties = reader.architecture.tied_embeddings and not model.run.model.tied_embeddings
        allowed = {"tied_embeddings": unties, "rotary_base": model.run.model.context > context_of(reader)}
        check_same_architecture(reader, model, except_for=[name for name, is_allowed in allowed.items() if is_allowed])
        _load_parameters(model, reader).refuse(reader.folder)
        return unties

    if agreed(model.world, load):
        logger.info(
            "  the initial model has tied embeddings, this one has not: its output layer begins as a copy of the"
            " embedding and is trained separately (model.tied_embeddings=true keeps one weight)"
        )
    if (before := reader.architecture.rotary_base) != (now := model.run.model.rotary_base):
        logger.info("  the rotary base becomes %g, from %g, and the context longer", now, before)


def _load_parameters(model: TrainingModel, reader: WeightReader) -> NotFinite:
    with whole_parameters(model):
        strange = fill_parameters(model.modules, reader)
        model.optimizer.reload_model_params()
    return strange


def _is_same_layout(reader: CheckpointReader, model: TrainingModel) -> bool:
    saved = {**to_plain(ParallelLayout()), **reader.config.get("layout", {})}  # older checkpoints have fewer fields
    return saved == to_plain(model.run.layout)


def fill_parameters(modules: Sequence[PaddedModel], reader: WeightReader) -> NotFinite:
    """Fill the parameters of this rank; returns what is NaN or infinite among them. Raises InputError."""
    _refuse_unread_weights(reader, modules)
    strange = NotFinite()
    for module in modules:
        for share in parameter_shares(module):
            name, box = stored_name(share.name, reader.architecture), Box(share.offset, share.shape)
            share.fill(strange.look(name, reader.box(name, block)) for block in box.blocks(_BLOCK_NUMBERS))
    return strange


def _load_optimizer(reader: CheckpointReader, model: TrainingModel, strange: NotFinite) -> None:
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
                values[: end - start].copy_(strange.look(key, reader.read(key, box, start=start, end=end)))
                values[end - start :].zero_()
    set_update_count(model.optimizer, reader.state.get("updates", reader.state["step"]))


def _refuse_unread_weights(reader: WeightReader, modules: Sequence[PaddedModel]) -> None:
    """Refuse a checkpoint with weights that this model does not have: norms of queries and keys, say.

    Readers of other formats check for such tensors themselves.
    """
    if not isinstance(reader, CheckpointReader):
        return
    known = {weight.name for weight in weights_of(reader.architecture)}
    known |= {share.name for module in modules for share in parameter_shares(module)}
    stored = {key.removeprefix("model/") for key in reader.tensors if key.startswith("model/")}
    unread = {in_any_layer(name) for name in stored} - {in_any_layer(name) for name in known}
    if unread:
        raise InputError(
            f"checkpoint {reader.folder} holds weights that this model does not have: {', '.join(sorted(unread))};"
            " without them it would compute something else. Read it with the code that trained it"
        )


def check_same_architecture(reader: WeightReader, model: TrainingModel, *, except_for: Collection[str] = ()) -> None:
    """Refuse a checkpoint of another shape, naming the fields that differ."""
    stored, wanted = to_plain(reader.architecture), to_plain(model.run.model)
    ignored = (*HOW_IT_IS_COMPUTED, *except_for)
    differing = [name for name in wanted if stored.get(name) != wanted[name] and name not in ignored]
    if differing:
        listed = ", ".join(f"model.{name} is {stored.get(name)}, the run has {wanted[name]}" for name in differing)
        raise InputError(f"checkpoint {reader.folder} is of another architecture: {listed}")

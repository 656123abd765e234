"""Initial weights that depend on a parameter's name, never on the layout.

Every whole parameter is drawn from its own generator, seeded with (run seed, global name), and each rank keeps its
share. So a run on one process and a run on TP 2 x PP 2 start from the same numbers, and one golden curve serves both.
A weight's row (model/rows/weight_row.py) names the distribution: `normal` with the configured standard deviation;
`residual` with that / sqrt(2 x layers), for the projections that write into the residual stream (GPT-2's rule,
Megatron's default; the paper is silent); `ones` for norms.

A generator (Mersenne twister) cannot skip ahead, so one weight is one thread's work, and a rank that keeps a part draws
the whole; different weights are drawn in parallel, which changes no number.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from torch import Tensor

from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.copied_groups.exchange import forget_copies
from megaphi.model.padded_model import PaddedModel
from megaphi.model.rows.weight_row import LAYERS, Weight
from megaphi.model.weights import EMBEDDING, OUTPUT, in_any_layer, weights_of
from megaphi.parallel.seeds import parameter_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterShare:
    """One parameter of this rank, as a box of the whole parameter.

    The SwiGLU input matrix is [gate; up] and every tensor rank holds rows of both halves: seen as (2, F, D) that is a
    box too. The box leaves out the rows that only pad the vocabulary, and copies of what other tensor ranks own
    (copied_groups/exchange.py). They come last, so the flattened parameter begins with the flattened box.
    """

    weight: Weight
    parameter: torch.nn.Parameter
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    is_first_copy: bool
    """False on tensor ranks above 0 for parameters that every tensor rank holds, and for the last stage's copy of a
    tied embedding."""

    @property
    def name(self) -> str:
        """Name in the whole model, layers numbered from the bottom."""
        return self.weight.name

    @property
    def whole_shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def numel(self) -> int:
        """Elements of the box, without padding and copies."""
        return math.prod(self.shape)

    def without_padding(self, start: int, end: int) -> tuple[int, int]:
        """Return the part of elements [start, end) of the flattened parameter that is in the box; may be empty."""
        return min(start, self.numel), min(end, self.numel)

    @torch.no_grad()
    def fill(self, parts: Iterable[Tensor]) -> None:
        """Set the parameter to the values of the box, which come in order in any number of parts, the padding to zero.

        Copies are fetched when they are used.

        Raises:
            RuntimeError: they are not as many as the box has.
        """
        flat = self.parameter.detach().view(-1)
        filled = 0
        for values in parts:
            flat[filled : min(filled + values.numel(), self.numel)].copy_(values.reshape(-1))
            filled += values.numel()
        if filled != self.numel:
            raise RuntimeError(f"{self.name}: {filled:,} of {self.numel:,} numbers came")
        flat[filled:].zero_()
        forget_copies([self.parameter])


def initialize_weights(chunks: Sequence[PaddedModel], *, seed: int, threads: int | None = None) -> None:
    """Fill the parameters of these chunks in place.

    `threads` (by default this rank's share of the processors, at most 8) hold one whole weight each, in fp32: at most
    2 GB of the 14B.
    """
    shares = [(share, chunk.architecture) for chunk in chunks for share in parameter_shares(chunk)]
    shares.sort(key=lambda item: -math.prod(item[0].whole_shape))  # the longest first: the threads end together
    with ThreadPoolExecutor(threads or _processors_of_this_rank(most=8)) as pool:
        for filled in [pool.submit(_initialize, share, model, seed) for share, model in shares]:
            filled.result()


def _processors_of_this_rank(*, most: int) -> int:
    """Its share of the host's; torch computes with fewer, often one, wherever a launcher says so."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # world.py sets it, whatever the launcher
    return min(most, max(1, len(os.sched_getaffinity(0)) // ranks))


@torch.no_grad()
def _initialize(share: ParameterShare, model: Architecture, seed: int) -> None:
    std = {"normal": model.initial_std, "residual": model.initial_std / math.sqrt(2 * model.layers)}
    if share.weight.drawn not in std:
        share.parameter.fill_({"ones": 1.0, "zeros": 0.0}[share.weight.drawn])
        return
    whole = _draw(share.whole_shape, std=std[share.weight.drawn], seed=parameter_seed(seed, share.name))
    box = tuple(slice(start, start + size) for start, size in zip(share.offset, share.shape, strict=True))
    share.fill([whole[box]])


def _draw(shape: tuple[int, ...], *, std: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)


def parameter_shares(chunk: PaddedModel) -> Iterator[ParameterShare]:
    """Yield every parameter of a chunk with its place in the whole model."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    for weight, parameter in _rows_and_parameters(chunk):
        offset, shape = weight.share(tensor=ranks, rank=rank)
        is_cut = ranks > 1 and weight.cut is not None
        yield ParameterShare(
            weight=weight,
            parameter=parameter,
            offset=offset,
            shape=shape,
            is_first_copy=(is_cut or rank == 0) and not getattr(parameter, "shared", False),  # Megatron marks the copy
        )


def _rows_and_parameters(chunk: PaddedModel) -> Iterator[tuple[Weight, torch.nn.Parameter]]:
    """Yield each parameter with the row of its weight, whether it has Megatron's name or Transformer Engine's.

    A tied output layer on another pipeline stage goes by the embedding's name: it is drawn, saved and loaded as that.
    """
    weights = weights_of(chunk.architecture)
    rows = {weight.name: weight for weight in weights}
    rows |= {weight.transformer_engine: weight for weight in weights if weight.transformer_engine}
    for name, parameter in _whole_names(chunk):
        if name == OUTPUT and chunk.share_embeddings_and_output_weights:
            name = EMBEDDING
        if name not in rows:
            raise InputError(
                f"the modules of model.variant={chunk.architecture.variant} hold the weight {in_any_layer(name)}, of "
                "which the variant has no row: it could not be drawn, counted or saved (CONTRIBUTING.md)"
            )
        yield rows[name], parameter


def _whole_names(chunk: PaddedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """`(name, parameter)` with the layer numbered from the bottom of the whole model."""
    for name, parameter in chunk.named_parameters():
        match = re.match(r"decoder\.layers\.(\d+)\.(.+)", name)
        if match:
            number = chunk.decoder.layers[int(match[1])].layer_number - 1  # pyright: ignore
            name = f"{LAYERS}{number}.{match[2]}"
        yield name, parameter


def check_weights(chunk: PaddedModel) -> None:
    """Raise InputError, naming the weight, where the modules that were built do not match the rows.

    Each row that belongs to this chunk must have its parameter, of the row's size, and cut where the row is cut.
    """
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    layers: Any = chunk.decoder.layers
    held = {layer.layer_number - 1 for layer in layers}
    held |= {place for place, is_held in (("bottom", chunk.pre_process), ("top", chunk.post_process)) if is_held}
    missing = {weight.name for weight in weights_of(chunk.architecture) if weight.place in held}
    for weight, parameter in _rows_and_parameters(chunk):
        missing.discard(weight.name)
        cut_here = bool(getattr(parameter, "tensor_model_parallel", False))
        wrong = [] if parameter.numel() == weight.held(tensor=ranks) else [f"{parameter.numel():,} numbers"]
        if ranks > 1 and cut_here is (weight.cut is None):
            wrong.append("a part" if cut_here else "all of it")
        if wrong:
            raise InputError(
                f"model.variant={chunk.architecture.variant}: a tensor rank's module holds {' and '.join(wrong)} of "
                f"{in_any_layer(weight.name)}, whose row has the shape {weight.shape} and cut={weight.cut}"
            )
    if missing:
        raise InputError(
            f"model.variant={chunk.architecture.variant}: no module holds {in_any_layer(min(missing))}, of which the "
            "variant has a row"
        )

"""Initial weights that depend on a parameter's name, never on the layout.

Every whole parameter is drawn from its own generator, seeded with (run seed, global name), and each rank keeps its
share. So a run on one process and a run on TP 2 x PP 2 start from the same numbers, and a golden curve can hold both.
Matrices are normal with the configured standard deviation; the two projections that write into the residual stream
are scaled by 1 / sqrt(2 x layers) (GPT-2's rule, Megatron's default; the paper is silent). Norms start at one,
biases (Phi-4 has none, a fork may) at zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from torch import Tensor

from megaphi.model.architecture import Architecture
from megaphi.model.padded_model import PaddedModel
from megaphi.model.weights import EMBEDDING, OUTPUT
from megaphi.parallel.seeds import parameter_seed

_NAMES_ELSEWHERE = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
"""Transformer Engine's layers hold the norms; one name for one weight lets any kernels load any checkpoint."""
_RESIDUAL_WRITERS = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterShare:
    """One parameter of this rank as a box of the whole one.

    The SwiGLU input matrix is [gate; up] and every tensor rank holds its rows of both halves: seen as (2, F, D) that
    is a box too. The box has no rows that only pad the vocabulary: those are the parameter's last, so that the box,
    flattened, is what the flattened parameter begins with.
    """

    name: str
    """Name in the whole model, layers numbered from the bottom."""
    parameter: torch.nn.Parameter
    whole_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    is_first_copy: bool
    """False on tensor ranks above 0 for parameters that every tensor rank holds, and for the last stage's copy of a
    tied embedding."""

    @property
    def numel(self) -> int:
        """Elements of the box, without padding."""
        return math.prod(self.shape)

    def without_padding(self, start: int, end: int) -> tuple[int, int]:
        """Return the part of elements [start, end) of the flattened parameter that is in the box; may be empty."""
        return min(start, self.numel), min(end, self.numel)

    @torch.no_grad()
    def fill(self, values: Tensor) -> None:
        """Set the parameter to the values of the box, the padding to zero."""
        flat = self.parameter.detach().view(-1)
        flat[: self.numel].copy_(values.reshape(-1))
        flat[self.numel :].zero_()


@torch.no_grad()
def initialize_weights(chunk: PaddedModel, architecture: Architecture, *, seed: int) -> None:
    """Fill this chunk's parameters in place."""
    for share in parameter_shares(chunk):
        if share.parameter.dim() == 1:
            share.parameter.fill_(0.0 if share.name.endswith("bias") else 1.0)
            continue
        std = architecture.initial_std
        if share.name.endswith(_RESIDUAL_WRITERS):
            std /= math.sqrt(2 * architecture.layers)
        whole = _draw(share.whole_shape, std=std, seed=parameter_seed(seed, share.name))
        box = tuple(slice(start, start + size) for start, size in zip(share.offset, share.shape, strict=True))
        share.fill(whole[box])


def _draw(shape: tuple[int, ...], *, std: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)


def parameter_shares(chunk: PaddedModel) -> Iterator[ParameterShare]:
    """Every parameter of a chunk with its place in the whole model."""
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    rank = parallel_state.get_tensor_model_parallel_rank()
    for name, parameter in _global_parameters(chunk):
        is_cut = ranks > 1 and getattr(parameter, "tensor_model_parallel", False)
        shape = tuple(parameter.shape)
        dimension = parameter.partition_dim if is_cut else 0  # pyright: ignore[reportAttributeAccessIssue]
        if name.endswith("mlp.linear_fc1.weight"):
            shape, dimension = (2, shape[0] // 2, shape[1]), 1
        whole, offset = list(shape), [0] * len(shape)
        if is_cut:
            whole[dimension] *= ranks
            offset[dimension] = rank * shape[dimension]
        if name in (EMBEDDING, OUTPUT):
            whole[0] = chunk.vocabulary
            offset[0] = min(offset[0], whole[0])
            shape = (min(shape[0], whole[0] - offset[0]), shape[1])
        yield ParameterShare(
            name=name,
            parameter=parameter,
            whole_shape=tuple(whole),
            offset=tuple(offset),
            shape=shape,
            is_first_copy=(is_cut or rank == 0) and not getattr(parameter, "shared", False),  # Megatron marks the copy
        )


def _global_parameters(chunk: PaddedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """`(name, parameter)` with the layer numbered from the bottom of the whole model.

    A tied output layer on another pipeline stage has the name of the embedding: it starts, is saved and is loaded as
    that.
    """
    for name, parameter in chunk.named_parameters():
        match = re.match(r"decoder\.layers\.(\d+)\.(.+)", name)
        if match:
            number = chunk.decoder.layers[int(match[1])].layer_number - 1  # pyright: ignore
            name = f"decoder.layers.{number}.{_NAMES_ELSEWHERE.get(match[2], match[2])}"
        if name == OUTPUT and chunk.share_embeddings_and_output_weights:
            name = EMBEDDING
        yield name, parameter

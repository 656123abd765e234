"""Initial weights that depend on a parameter's name, never on the layout.

Every whole parameter is drawn from its own generator, seeded with (run seed, global name), and each rank keeps its
share. So a run on one process and a run on TP 2 x PP 2 start from the same numbers, and a golden curve can hold both.
Matrices are normal with the configured standard deviation; the two projections that write into the residual stream
are scaled by 1 / sqrt(2 x layers) (GPT-2's rule, Megatron's default; the paper is silent). Norms start at one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from megaphi.model.architecture import Architecture
from megaphi.parallel.seeds import parameter_seed

_RESIDUAL_WRITERS = ("self_attention.linear_proj.weight", "mlp.linear_fc2.weight")


@torch.no_grad()
def initialize_weights(chunk: GPTModel, architecture: Architecture, *, seed: int) -> None:
    """Fill this chunk's parameters in place."""
    for name, parameter in global_parameters(chunk):
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        std = architecture.initial_std
        if name.endswith(_RESIDUAL_WRITERS):
            std /= math.sqrt(2 * architecture.layers)
        whole = _draw(whole_shape(parameter), std=std, seed=parameter_seed(seed, name))
        parameter.copy_(local_share(name, parameter, whole))


def global_parameters(chunk: GPTModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """`(name, parameter)` with the layer numbered from the bottom of the whole model."""
    for name, parameter in chunk.named_parameters():
        match = re.match(r"decoder\.layers\.(\d+)\.(.+)", name)
        if match:
            number = chunk.decoder.layers[int(match[1])].layer_number - 1  # pyright: ignore
            name = f"decoder.layers.{number}.{match[2]}"
        yield name, parameter


def _draw(shape: tuple[int, ...], *, std: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, std, generator=generator)


def _partition(parameter: torch.nn.Parameter) -> tuple[int, int, int]:
    """(dimension that tensor parallelism cuts, ranks, this rank); one rank where it is replicated."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return 0, 1, 0
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    return parameter.partition_dim, ranks, parallel_state.get_tensor_model_parallel_rank()  # pyright: ignore


def whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape of a parameter before tensor parallelism cut it."""
    dimension, ranks, _ = _partition(parameter)
    shape = list(parameter.shape)
    shape[dimension] *= ranks
    return tuple(shape)


def local_share(name: str, parameter: torch.nn.Parameter, whole: Tensor) -> Tensor:
    """Cut this tensor rank's share out of a whole parameter.

    The SwiGLU input matrix is [gate; up]: every rank holds its rows of both halves.
    """
    dimension, ranks, rank = _partition(parameter)
    if name.endswith("mlp.linear_fc1.weight"):
        return torch.cat([half.chunk(ranks, dimension)[rank] for half in whole.chunk(2, dimension)], dimension)
    return whole.chunk(ranks, dimension)[rank]

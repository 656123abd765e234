"""A model for reading: weights from a checkpoint, no gradients, no optimizer, logits of whole sequences.

Any layout with one replica works, tensor and pipeline parallel alike; sequence parallelism is switched off, because
sequences here have any length. Every rank gets the logits.

Legend: B batch, S sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from torch import Tensor

from megaphi.engine.checkpoint import load_weight
from megaphi.engine.weight_reader import WeightReader
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.initialize import parameter_shares
from megaphi.model.language_model import build_model
from megaphi.model.megatron_config import Precision
from megaphi.model.padded_model import PaddedModel
from megaphi.model.weights import OUTPUT
from megaphi.parallel.agreement import agreed
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import World, start_world


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingModel:
    """This rank's share of a model that is only read."""

    architecture: Architecture
    world: World
    module: PaddedModel
    context: int
    """Sequence length that the model was trained with."""


@torch.no_grad()
def open_model(
    reader: WeightReader, layout: ParallelLayout | None = None, *, parameters: Precision | None = None
) -> ReadingModel:
    """Load weights under any layout with one replica; in their own number format (fp16 as fp32), or in `parameters`."""
    architecture = reader.architecture
    if architecture.kernels == "transformer_engine":  # how it was trained; reading takes whole weights of any origin
        architecture = replace(architecture, kernels="fused")
    layout = check_reading_layout(layout or ParallelLayout(), architecture)
    world = start_world(layout, seed=0)
    context = reader.config.get("batch", {}).get("sequence_length", 4_096)
    (module,) = build_model(
        architecture,
        world.layout,
        sequence_length=context,
        seed=0,
        parameters=parameters or ("bfloat16" if reader.dtype(OUTPUT) == torch.bfloat16 else "float32"),
    )

    def load() -> None:
        for share in parameter_shares(module):
            load_weight(reader, share)

    agreed(world, load)
    return ReadingModel(architecture=architecture, world=world, module=module.eval(), context=context)


def check_reading_layout(layout: ParallelLayout, architecture: Architecture) -> ParallelLayout:
    """The layout for reading: one replica, whole sequences."""
    if layout.context > 1 or layout.virtual_pipeline > 1 or (layout.data or 1) > 1:
        raise InputError(
            "reading a model takes layout.tensor and layout.pipeline only: leave the other dimensions at 1"
        )
    layout = replace(layout, data=1, sequence_parallel=False)
    layout.check_model(
        layers=architecture.layers,
        heads=architecture.heads,
        key_value_groups=architecture.key_value_groups,
        feed_forward=architecture.feed_forward,
        sequence_length=1,
    )
    return layout


@torch.no_grad()
def logits_of(model: ReadingModel, tokens_BS: np.ndarray) -> Tensor:
    """`[B, S, V]` next-token logits, in fp32, equal on every rank. Collective."""
    device = model.world.device
    collected = get_forward_backward_func()(
        forward_step_func=_forward_step(torch.from_numpy(tokens_BS).to(device)),
        data_iterator=iter(()),
        model=model.module,
        num_microbatches=1,
        seq_length=tokens_BS.shape[1],
        micro_batch_size=tokens_BS.shape[0],
        forward_only=True,
        collect_non_loss_data=True,
    )
    shape = (*tokens_BS.shape, model.architecture.vocabulary)
    logits_BSV = collected[0][..., : shape[-1]] if collected else torch.empty(shape)  # no padding leaves the engine
    return _from_last_stage(logits_BSV.to(device).contiguous())


def _forward_step(tokens_BS: Tensor) -> Callable[..., Any]:
    def forward_step(_: Iterator[Any], module: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        positions_BS = torch.arange(tokens_BS.shape[1], device=tokens_BS.device).expand_as(tokens_BS)
        return module(input_ids=tokens_BS, position_ids=positions_BS, attention_mask=None), _gathered

    return forward_step


def _gathered(logits_BSV: Tensor, non_loss_data: bool = True) -> Tensor:
    """The whole vocabulary, and what pads it, from this tensor rank's part."""
    return gather_from_tensor_model_parallel_region(logits_BSV).float()


def _from_last_stage(logits_BSV: Tensor) -> Tensor:
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        group = parallel_state.get_pipeline_model_parallel_group()
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        distributed.broadcast(logits_BSV, src=source, group=group)  # pyright: ignore[reportArgumentType]
    return logits_BSV

"""A model for inference: weights from a checkpoint, no gradients, no optimizer; logits of whole sequences, or of a pass
over a paged cache.

Tensor and pipeline parallelism are supported, and replicas are independent; sequence parallelism is off, because
sequences here have any length. Inference always uses the fused kernels, whatever the model was trained with: they take
weights of any origin.

Legend: B batch, S sequence, V vocabulary, T tokens of a pass, W rows of logits, N blocks of P positions, G key-value
groups, K head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from torch import Tensor
from torch.nn.functional import cross_entropy

from megaphi.checkpoint.model_tokenizer import context_of
from megaphi.checkpoint.weight_reader import WeightReader
from megaphi.engine.saving.shards import fill_parameters
from megaphi.engine.start.same_run import agree_on_weights, code_facts
from megaphi.errors import InputError
from megaphi.model.architecture import Architecture
from megaphi.model.copied_groups.exchange import fetch_copies
from megaphi.model.forward.attention import Causal
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.paged_cache import PagedCache
from megaphi.model.forward.targets import AllLogits
from megaphi.model.forward.to_device import to_device
from megaphi.model.language_model import build_model
from megaphi.model.layer_spec import check_kernels, choose_attention
from megaphi.model.megatron_config import Precision
from megaphi.model.padded_model import PaddedModel
from megaphi.model.rows.head_cut import HeadCut
from megaphi.model.weights import EMBEDDING
from megaphi.parallel.agreement import agreed
from megaphi.parallel.exchange import broadcast, gathered
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.liveness.patience import Patience
from megaphi.parallel.world import USUAL_PATIENCE, World, start_world

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceModel:
    """This rank's share of a model without gradients or optimizer."""

    architecture: Architecture
    world: World
    module: PaddedModel
    context: int
    """Longest sequence that the model supports, in tokens."""


@torch.no_grad()
def open_model(
    reader: WeightReader,
    layout: ParallelLayout | None = None,
    *,
    parameters: Precision | None = None,
    patience: Patience = USUAL_PATIENCE,
) -> InferenceModel:
    """Load weights under any layout, in the number format `parameters`, or else in their own (fp16 as fp32)."""
    architecture = replace(reader.architecture, kernels="fused")
    layout = inference_layout(layout or ParallelLayout(), architecture)
    world = start_world(layout, seed=0, facts=code_facts, patience=patience)
    agree_on_weights(world, reader)
    context = context_of(reader)
    own: Precision = "bfloat16" if reader.dtype(EMBEDDING) == torch.bfloat16 else "float32"
    numbers = parameters or own
    agreed(world, lambda: check_kernels(architecture, device=world.device, parameters=numbers, reads=True))
    agreed(world, lambda: choose_attention(architecture, device=world.device, parameters=numbers, reads=True))
    (module,) = build_model(
        architecture,
        world.layout,
        sequence_length=context,
        seed=None,
        parameters=numbers,
    )
    agreed(world, lambda: fill_parameters([module], reader)).say(reader.folder)
    for parameter in module.parameters():
        fetch_copies(parameter)  # here, so that no captured pass does it
    return InferenceModel(architecture=architecture, world=world, module=module.eval(), context=context)


def inference_layout(layout: ParallelLayout, architecture: Architecture) -> ParallelLayout:
    """The layout for inference: no sequence parallelism, one replica unless `layout` names more, any number of stages
    up to that of the layers."""
    if layout.context > 1 or layout.virtual_pipeline > 1:
        raise InputError("inference takes no layout.context and no layout.virtual_pipeline: leave them at 1")
    layout = replace(layout, data=layout.data or 1, sequence_parallel=False).with_stages_for(architecture.layers)
    layout.check_model(
        layers=architecture.layers,
        heads=architecture.heads,
        feed_forward=architecture.feed_forward,
        sequence_length=1,
    )
    return layout


@torch.no_grad()
def logits_of(model: InferenceModel, tokens_BS: np.ndarray) -> Tensor:
    """`[B, S, V]` next-token logits on the CPU, in fp32, equal on every rank. Collective."""
    device = model.world.device
    context = ForwardContext(attention=Causal(), targets=AllLogits())
    logits_BSV = _run_pipeline(model, torch.from_numpy(tokens_BS).to(device), context)
    if logits_BSV is None:
        logits_BSV = torch.empty((*tokens_BS.shape, model.architecture.vocabulary), device=device)
    return _logits_from_last_stage(logits_BSV).cpu()


def next_token_losses(model: InferenceModel, tokens_BS: np.ndarray) -> np.ndarray:
    """`[B, S-1]` cross-entropy in nats of every token but the first, given those before it. Collective."""
    logits_BSV = logits_of(model, tokens_BS[:, :-1])
    labels_BS = torch.from_numpy(tokens_BS[:, 1:]).long()
    return cross_entropy(logits_BSV.transpose(1, 2), labels_BS, reduction="none").numpy()


def make_cache(model: InferenceModel, *, blocks: int, block_size: int) -> PagedCache:
    """A cache of zeros for the layers of this rank, with every key-value group that its queries need."""
    architecture, layout = model.architecture, model.world.layout
    cut = HeadCut(architecture.heads, architecture.key_value_groups, layout.tensor)
    shape = (blocks, block_size, len(cut.queries(model.world.place.tensor)), architecture.head_size)
    config, device = model.module.config, model.world.device
    return PagedCache(
        {
            layer.layer_number: tuple(torch.zeros(shape, dtype=config.params_dtype, device=device) for _ in range(2))
            for layer in model.module.decoder.layers
        }  # pyright: ignore[reportArgumentType]
    )


def cache_bytes_per_token(model: InferenceModel) -> int:
    """Bytes that one token takes in the cache of the rank that holds most groups and layers, equal on every rank."""
    shape, layout, config = model.architecture, model.world.layout, model.module.config
    groups = HeadCut(shape.heads, shape.key_value_groups, layout.tensor).groups_held
    layers = max(layout.chunk_layers(shape.layers))
    return 2 * layers * groups * shape.head_size * config.params_dtype.itemsize


@torch.no_grad()
def pass_over_cache(model: InferenceModel, tokens_T: Sequence[int], context: ForwardContext) -> Tensor | None:
    """fp32 logits `[W, V]` of a `PagedPass` and its `LogitRows`; None on all pipeline stages but the last.

    Collective.
    """
    tokens_1T = to_device([tokens_T], model.world.device, dtype=torch.int64)
    logits_1WV = _run_pipeline(model, tokens_1T, context)
    return None if logits_1WV is None else logits_1WV[0]


def _run_pipeline(model: InferenceModel, tokens_BS: Tensor, context: ForwardContext) -> Tensor | None:
    """Logits without the vocabulary's padding, on the last pipeline stage."""
    collected = get_forward_backward_func()(
        forward_step_func=_forward_step(tokens_BS, context),
        data_iterator=iter(()),
        model=model.module,
        num_microbatches=1,
        seq_length=tokens_BS.shape[1],
        micro_batch_size=tokens_BS.shape[0],
        forward_only=True,
        collect_non_loss_data=True,
    )
    return collected[0][..., : model.architecture.vocabulary].contiguous() if collected else None


def _forward_step(tokens_BS: Tensor, context: ForwardContext) -> Callable[..., Any]:
    def forward_step(_: Iterator[Any], module: torch.nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        return module(tokens_BS, context), gathered_logits

    return forward_step


def gathered_logits(logits_BSV: Tensor, non_loss_data: bool = True) -> Tensor:
    """Gather the padded vocabulary from the tensor ranks' shares."""
    return gather_from_tensor_model_parallel_region(logits_BSV).float()


def broadcast_from_last_stage(model: InferenceModel, value: Any, kind: Any) -> Any:
    """Broadcast a message of this type from the last pipeline stage to every rank of this replica. Collective."""
    layout, place = model.world.layout, model.world.place
    if layout.pipeline == 1:
        return value  # equal on all tensor ranks, because their logits are
    source = layout.rank_of(place._replace(pipeline=layout.pipeline - 1))
    return broadcast(value, kind, source=source, group=parallel_state.get_pipeline_model_parallel_group())


def broadcast_from_first_rank(model: InferenceModel, value: Any, kind: Any) -> Any:
    """Broadcast a message of this type from the first rank of this replica to all its ranks. Collective."""
    first = model.world.layout.rank_of(model.world.place._replace(tensor=0, pipeline=0))
    return broadcast(value, kind, source=first, group=parallel_state.get_model_parallel_group())


def gather_over_replicas(model: InferenceModel, value: Value, kind: Any) -> list[Value]:
    """Gather one value of this type per replica, in order, on every rank. Collective."""
    if model.world.replicas == 1:
        return [value]
    return gathered(value, kind, group=parallel_state.get_data_parallel_group())


def _logits_from_last_stage(logits_BSV: Tensor) -> Tensor:
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        group = parallel_state.get_pipeline_model_parallel_group()
        source = parallel_state.get_pipeline_model_parallel_last_rank()
        distributed.broadcast(logits_BSV, src=source, group=group)  # pyright: ignore[reportArgumentType]
    return logits_BSV

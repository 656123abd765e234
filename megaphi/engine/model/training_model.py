"""The wrapped model and its optimizer: everything of a run on a rank's device.

Megatron's `DistributedDataParallel` keeps parameters and fp32 gradients in flat buffers; its distributed optimizer
owns an equal piece of those buffers on every replica (and context rank). Both are used for a single replica too, so
that there is one code path for all layouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from megatron.core.distributed import DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.transformer import TransformerConfig

from megaphi.engine.model.optimizer import build_optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.model.copied_groups.exchange import CopiesReturned, copies_of
from megaphi.model.initialize import initialize_weights
from megaphi.model.language_model import build_model
from megaphi.model.layer_spec import check_kernels, choose_attention
from megaphi.model.padded_model import PaddedModel
from megaphi.model.tensor_gradients import add_up_gradients
from megaphi.parallel.agreement import agreed
from megaphi.parallel.world import World

Chunk = CopiesReturned


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingModel:
    """This rank's share of a model in training."""

    run: RunConfig
    world: World
    config: TransformerConfig
    chunks: list[Chunk]
    """One per virtual pipeline stage."""
    optimizer: DistributedOptimizer

    @property
    def modules(self) -> list[PaddedModel]:
        """The chunks without Megatron's wrapper."""
        return [cast(PaddedModel, chunk.module) for chunk in self.chunks]


def check_machine(run: RunConfig, world: World) -> str:
    """Refuse a model whose kernels this machine does not have; returns what computes attention here, in words.

    Collective. Raises InputError.
    """
    device, parameters = world.device, run.precision.parameters
    agreed(world, lambda: check_kernels(run.model, device=device, parameters=parameters, reads=False))
    return agreed(world, lambda: choose_attention(run.model, device=device, parameters=parameters, reads=False))


def build_training_model(run: RunConfig, world: World, *, draws: bool = True) -> TrainingModel:
    """Build the model, wrapped; `run.layout` must be the layout of `world`.

    Unless it `draws` its initial weights, whoever builds it loads weights, or calls `draw_weights`.
    """
    modules = build_model(
        run.model,
        world.layout,
        sequence_length=run.batch.sequence_length,
        seed=run.seed if draws else None,
        parameters=run.precision.parameters,
        recompute=run.recompute,
        fp8=run.precision.fp8,
    )
    overlap = run.overlap_communication and world.replicas * world.layout.context > 1
    config = modules[0].config
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        bucket_size=run.bucket_parameters or None,
    )
    chunks = [
        # Virtual stages after the first have little to overlap with, so their gradients go in one bucket.
        CopiesReturned(config, settings, module, disable_bucketing=number > 0)
        for number, module in enumerate(modules)
    ]
    _let_schedules_synchronise(config, chunks, world, overlap=overlap)
    optimizer = build_optimizer(run.optimizer, chunks, parameters=run.precision.parameters, overlap=overlap)
    return TrainingModel(run=run, world=world, config=config, chunks=chunks, optimizer=optimizer)


def draw_weights(model: TrainingModel) -> None:
    """Draw the initial weights of a model that was built without."""
    with whole_parameters(model):
        initialize_weights(model.modules, seed=model.run.seed)
        model.optimizer.reload_model_params()


def _let_schedules_synchronise(config: TransformerConfig, chunks: list[Chunk], world: World, *, overlap: bool) -> None:
    def finalize(*arguments: Any, **keywords: Any) -> None:
        world.activity.enter("gradients")  # here replicas wait for each other
        finalize_model_grads(*arguments, **keywords)
        add_up_gradients(chunks)

    config.finalize_model_grads_func = finalize
    # Outside `no_sync` comes a step's last micro-batch: replicas reduce gradients, copies return theirs.
    if overlap or any(copies_of(parameter) for chunk in chunks for parameter in chunk.parameters()):
        no_sync = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = no_sync if len(chunks) > 1 else no_sync[0]  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def whole_parameters(model: TrainingModel) -> Iterator[None]:
    """Keep every parameter gathered inside the block, also where gathering overlaps with the next forward pass."""
    overlapped = [chunk for chunk in model.chunks if chunk.ddp_config.overlap_param_gather]
    for chunk in overlapped:
        chunk.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        for chunk in overlapped:
            chunk.enable_forward_pre_hook()

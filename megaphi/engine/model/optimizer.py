"""AdamW under Megatron's distributed optimizer, and the pieces of its state that a checkpoint needs.

Megatron builds torch's AdamW where neither Transformer Engine nor Apex is installed; we switch it to torch's fused
kernel, which has a CPU form too. Its norm of the gradients would ask the device for a number of every tensor;
`prepared_square` leaves its one on the device, for the step to reduce with its losses. An update has two parts, so that
the step decides between them. Megatron's checkpoint functions are not used: with torch's AdamW they fail to load
what they saved (megatron-core 0.16 to 0.19), and the form that survives a change of layout gathers everything on one
replica. Instead `state_pieces` exposes what this rank owns, as flat views that a checkpoint can read and fill.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor

from megaphi.engine.learning_rate import Optimizer
from megaphi.model.megatron_config import Precision


def build_optimizer(
    settings: Optimizer, chunks: Sequence[DistributedDataParallel], *, parameters: Precision, overlap: bool
) -> DistributedOptimizer:
    """Build AdamW over all chunks; Megatron exempts one-dimensional parameters (the norms) from weight decay."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=settings.learning_rate,
        min_lr=0.0,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.eps,
        clip_grad=settings.clip_gradient_norm or math.inf,
        bf16=parameters == "bfloat16",
        params_dtype=torch.bfloat16 if parameters == "bfloat16" else torch.float32,
        use_distributed_optimizer=True,
        overlap_param_gather=overlap,
        log_num_zeros_in_grad=False,
    )
    built = get_megatron_optimizer(config, chunks, use_gloo_process_groups=False)  # pyright: ignore[reportArgumentType]
    (optimizer,) = getattr(built, "chained_optimizers", [built])
    for group in optimizer.param_groups:
        if "fused" in group:  # torch's AdamW; the ones of Transformer Engine and Apex are always fused
            group.update(fused=True, foreach=False)
    return optimizer


def set_rates(optimizer: DistributedOptimizer, *, learning_rate: float, weight_decay: float) -> None:
    """Set the rates of the next update; each group's multipliers (no decay for norms) stay as they are."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


@torch.no_grad()
def prepared_square(optimizer: DistributedOptimizer) -> Tensor:
    """Make the gradients ready for the update; returns this rank's share of their squared L2 norm, on the device.

    The sum over all ranks counts the gradients of replicated weights once.
    """
    optimizer.prepare_grads()
    name = "get_main_grads_for_grad_norm"  # Megatron-Core 0.19 renamed it
    gradients = getattr(optimizer, name if hasattr(optimizer, name) else "get_grads_for_grad_norm")()
    square = torch.zeros((), dtype=torch.float32, device=torch.cuda.current_device())
    if gradients:
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        square += torch.linalg.vector_norm(torch.stack(norms)).square()
    return square


@torch.no_grad()
def apply_update(optimizer: DistributedOptimizer, *, gradient_norm: float) -> None:
    """Clip the gradients that `prepared_square` made ready, whose global norm is given, and update. Collective."""
    factor = optimizer.config.clip_grad / (gradient_norm + 1e-6)
    gradients = [main.grad for main in optimizer.get_parameters() if main.grad is not None]
    if factor < 1.0 and gradients:
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
    optimizer.step_with_ready_grads()


@dataclass(frozen=True, kw_only=True, slots=True)
class StatePieces:
    """Optimizer state of one parameter that this rank owns: elements [start, end) of its flattened local share."""

    start: int
    end: int
    tensors: dict[str, Tensor]
    """`exp_avg`, `exp_avg_sq`, and `main` (fp32 weights) where the model itself is in bf16; each of end - start."""


def state_pieces(optimizer: DistributedOptimizer, parameter: torch.nn.Parameter) -> StatePieces | None:
    """The state of one parameter on this rank, created before the first update; None if another rank owns it all."""
    if parameter not in optimizer.model_param_group_index_map:
        return None
    group_index, position = optimizer.model_param_group_index_map[parameter]
    owned = optimizer._get_model_param_range_map(parameter)["param"]
    main = optimizer.optimizer.param_groups[group_index]["params"][position]
    state = _state_of(optimizer.optimizer, main)
    tensors = {name: state[name].view(-1) for name in ("exp_avg", "exp_avg_sq")}
    if parameter.dtype != torch.float32:
        tensors["main"] = main.detach().view(-1)
    return StatePieces(start=owned.start, end=owned.end, tensors=tensors)


def _state_of(adam: torch.optim.Optimizer, main: Tensor) -> dict[str, Any]:
    state = adam.state[main]
    if not state:
        state.update(exp_avg=torch.zeros_like(main.detach()), exp_avg_sq=torch.zeros_like(main.detach()))
        if isinstance(adam, torch.optim.AdamW):
            state["step"] = torch.zeros((), dtype=torch.float32, device=main.device)
    return state


def set_update_count(optimizer: DistributedOptimizer, updates: int) -> None:
    """Tell AdamW how many updates came before, for its bias correction. Call after the state was made."""
    for state in _torch_states(optimizer):
        state["step"].fill_(updates)
    for group in optimizer.param_groups:
        if "fused" not in group:  # Transformer Engine and Apex count in the group
            group["step"] = updates


def _torch_states(optimizer: DistributedOptimizer) -> Iterator[dict[str, Any]]:
    return (state for state in optimizer.optimizer.state.values() if "step" in state)

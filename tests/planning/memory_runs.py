"""A rank of the memory planner's tests: one real training step, with everything in it weighed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from megaphi.engine.run_config import RunConfig
from megaphi.stages.finetune import Finetune
from megaphi.stages.pretrain import Pretrain
from tests.engine.layout_runs import step_batches

if TYPE_CHECKING:
    from torch import Tensor

    from megaphi.data.batch import Batch


class Ledger:
    """Bytes of the storages that are held for a backward pass, by autograd or the schedule: now, and at most."""

    def __init__(self, weights: set[int]) -> None:
        """`weights`: addresses of the storages of parameters, which are held anyway."""
        self.weights = weights
        self.holders: Counter[int] = Counter()
        self.held = self.peak = 0

    def hold(self, tensor: Tensor) -> Held:
        return Held(self, tensor.detach())

    def add(self, tensor: Tensor, holders: int) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self.weights:
            return
        before = self.holders[storage.data_ptr()]
        self.holders[storage.data_ptr()] += holders
        if 0 in (before, before + holders):
            self.held += holders * storage.nbytes()
            self.peak = max(self.peak, self.held)


class Held:
    """A saved tensor; autograd drops it when it is not needed any more."""

    def __init__(self, ledger: Ledger, tensor: Tensor) -> None:
        self.ledger, self.tensor = ledger, tensor
        ledger.add(tensor, 1)

    def __del__(self) -> None:
        self.ledger.add(self.tensor, -1)


def measured_bytes(run: RunConfig) -> dict[str, int]:
    """Bytes that this rank holds: weights, gradients, optimizer state, and at most for the backward pass."""
    import torch

    from megaphi.engine.model.optimizer import state_pieces
    from megaphi.engine.model.training_model import build_training_model
    from megaphi.engine.run_config import check
    from megaphi.engine.training.train_step import train_step
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.parallel.world import start_world

    run = check(run, world_size=detect().world_size)
    world = start_world(run.layout, seed=run.seed)
    model = build_training_model(run, world)
    parameters = [parameter for chunk in model.chunks for parameter in chunk.parameters()]
    ledger = Ledger({parameter.untyped_storage().data_ptr() for parameter in parameters})
    batches = [
        _with_segments(batch, run)
        for batch in step_batches(run, step=0, replica=world.replica, replicas=world.replicas)
    ]
    with _outputs_held(ledger), torch.autograd.graph.saved_tensors_hooks(ledger.hold, lambda held: held.tensor):
        train_step(model, batches, learning_rate=1e-3)
    assert ledger.held == 0
    pieces = [state_pieces(model.optimizer, parameter) for parameter in parameters]
    return {
        "stage": world.place.pipeline,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights": sum(parameter.nbytes for parameter in parameters),
        "gradients": sum(parameter.main_grad.nbytes for parameter in parameters),  # pyright: ignore
        "optimizer": sum(part.nbytes for piece in pieces if piece is not None for part in piece.tensors.values()),
        "activations": ledger.peak,
    }


@contextmanager
def _outputs_held(ledger: Ledger) -> Iterator[None]:
    """Megatron's schedules hold what a stage has sent on until its backward pass, though that does not need it."""
    from megatron.core.pipeline_parallel import schedules

    forward, backward = schedules.forward_step, schedules.backward_step

    def forward_step(*arguments: Any, **named: Any) -> Any:
        output, tokens = forward(*arguments, **named)
        ledger.add(_only(output), 1)
        return output, tokens

    def backward_step(given: Any, output: Any, *rest: Any) -> Any:
        gradient = backward(given, output, *rest)
        ledger.add(_only(output), -1)
        return gradient

    schedules.forward_step, schedules.backward_step = forward_step, backward_step
    try:
        yield
    finally:
        schedules.forward_step, schedules.backward_step = forward, backward


def _only(output: Tensor | list[Tensor]) -> Tensor:
    return output[0] if isinstance(output, list) else output


def _with_segments(batch: Batch, run: RunConfig) -> Batch:
    """The batch as the run's task makes one, with a document to each row."""
    rows, length = batch.tokens_BS.shape
    ids_BS = np.repeat(np.arange(rows, dtype=np.int32)[:, None], length, axis=1)
    if isinstance(run.task, Finetune):
        flat = {name: getattr(batch, name).reshape(1, -1) for name in ("tokens_BS", "labels_BS", "loss_mask_BS")}
        positions_BS = np.tile(np.arange(length), rows)[None]
        return replace(batch, **flat, document_ids_BS=ids_BS.reshape(1, -1), positions_BS=positions_BS)
    isolates = isinstance(run.task, Pretrain) and run.task.mixture.isolate_documents
    return replace(batch, document_ids_BS=ids_BS) if isolates else batch


def measured_bytes_on_a_gpu(run: RunConfig) -> dict[str, int]:
    """The same where flash attention is launched, by a stand-in that keeps the same for its backward pass."""
    import pytest

    from megaphi.model.forward import flash_launch, segments

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "is_launched", lambda _: True)
        patch.setattr(flash_launch.varlen, "varlen_attn", _flash_attention)
        return measured_bytes(run)


def _flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    longest_query: int,
    longest_key: int,
    **how: Any,
) -> Tensor:
    """Gradients of another run of it, from what torch's own keeps: `_setup_context` in torch.nn.attention.varlen."""
    import torch

    def attended(query_THK: Tensor, key_LGK: Tensor, value_LGK: Tensor) -> Tensor:
        return _by_definition(query_THK, key_LGK, value_LGK, query_ends, key_ends, scale=how["scale"])

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query_THK: Tensor, key_LGK: Tensor, value_LGK: Tensor) -> Tensor:
            result_THK = attended(query_THK, key_LGK, value_LGK)
            sums_HT = torch.zeros(query_THK.shape[1], len(query_THK), dtype=torch.float32)
            ctx.save_for_backward(query_THK, key_LGK, value_LGK, query_ends, key_ends, result_THK, sums_HT)
            return result_THK

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
            inputs = [part.detach().requires_grad_() for part in ctx.saved_tensors[:3]]
            unseen = torch.autograd.graph.saved_tensors_hooks(lambda part: part, lambda part: part)
            with torch.enable_grad(), unseen:
                return torch.autograd.grad(attended(*inputs), inputs, gradients)

    return Flash.apply(query, key, value)


def _by_definition(
    query_THK: Tensor, key_LGK: Tensor, value_LGK: Tensor, query_ends: Tensor, key_ends: Tensor, *, scale: float
) -> Tensor:
    import torch
    import torch.nn.functional as functional

    found = []
    for (start, end), (first, last) in zip(pairwise(query_ends.tolist()), pairwise(key_ends.tolist()), strict=True):
        operands = (query_THK[start:end], key_LGK[first:last], value_LGK[first:last])
        queries, keys = end - start, last - first
        visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        query, key, value = (part.transpose(0, 1)[None] for part in operands)
        attended = functional.scaled_dot_product_attention(query, key, value, visible, scale=scale, enable_gqa=True)
        found.append(attended[0].transpose(0, 1))
    return torch.cat(found)

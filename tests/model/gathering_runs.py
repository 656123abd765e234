"""Weights that a pass reads before anything could wait for their gather: the test's one process.

Under overlap, the distributed optimizer gathers weights while the forward pass runs, and waits in a hook in front of
every module for the weights that this very module holds. `Reads` keeps, of each weight, whether such a hook has run,
and looks at the arguments of every operation of torch. The layouts are pretended: collectives give rubbish, and the
reads are real.

Legend: S sequence, B batch, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megaphi.data.batch import Batch
from megaphi.engine.objective import NextToken, Objective
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from tests.stages.packed_runs import CASES as PREFERENCES
from tests.stages.packed_runs import SEQUENCE, SHAPE, conversations, pair_batches

LAYOUTS = {
    "one process": (ParallelLayout(), 0),
    "tensor 2, sequence parallel": (ParallelLayout(tensor=2, sequence_parallel=True), 1),
    "first of two stages": (ParallelLayout(pipeline=2), 0),
    "last of two stages": (ParallelLayout(pipeline=2), 1),
}
MODELS: dict[str, dict[str, Any]] = {
    "fused": {},
    "softmax": {"attention": "softmax"},
    "loss in chunks": {"loss_chunk_tokens": 5},
    "tied": {"tied_embeddings": True, "loss_chunk_tokens": 5},
    "reference": {"kernels": "reference"},
}


class Reads(TorchDispatchMode):
    """Operations that touch a weight before the module that holds it was called."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.waiting = {weight.untyped_storage().data_ptr(): name for name, weight in model.named_parameters()}
        self.early: set[str] = set()
        for module in model.modules():
            module.register_forward_pre_hook(self._arrive)

    def _arrive(self, module: torch.nn.Module, _: object) -> None:
        for weight in module.parameters(recurse=False):
            self.waiting.pop(weight.untyped_storage().data_ptr(), None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(
            result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns
        )
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, torch.Tensor) and not is_view and value.device.type != "meta":
                name = self.waiting.get(value.untyped_storage().data_ptr())
                if name is not None:
                    self.early.add(f"{name} in {func}")
        return func(*args, **(kwargs or {}))


def early_reads() -> tuple[int, dict[str, list[str]]]:
    """(passes that ran, weights that were read early by the name of the pass)."""
    from megaphi.model.language_model import build_model
    from megaphi.parallel.world import pretended_world

    found, passes = {}, 0
    for (where, (layout, rank)), (how, fields) in _product(LAYOUTS, MODELS):
        layout = dataclasses.replace(layout, data=1)
        architecture = dataclasses.replace(SHAPE, **fields)
        with pretended_world(layout, rank=rank):
            for recompute in ("none", "selective", "full"):
                for what, (objective, batch) in _objectives(architecture).items():
                    (model,) = build_model(architecture, layout, sequence_length=SEQUENCE, seed=1, recompute=recompute)
                    found[f"{where}, {how}, {recompute}, {what}"] = _train(model, objective, batch)
                    passes += 1
    return passes, {name: early for name, early in found.items() if early}


def _product(first: dict[str, Any], second: dict[str, Any]) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    return ((one, other) for one in first.items() for other in second.items())


def _objectives(architecture: Architecture) -> dict[str, tuple[Objective, Batch]]:
    """Each way to train with one micro-batch of it; packed rows need the fused model."""
    from megaphi.data.packed.rows import conversation_batch

    rows = np.random.default_rng(3).integers(SHAPE.vocabulary, size=(2, SEQUENCE + 1))
    plain = Batch(
        tokens_BS=rows[:, :-1],
        labels_BS=rows[:, 1:],
        loss_mask_BS=np.ones((2, SEQUENCE), dtype=np.float32),
        document_ids_BS=None,
        sample_numbers_B=np.arange(2),
    )
    if architecture.kernels != "fused":
        return {"pretraining": (NextToken(), plain)}
    packed = conversation_batch(conversations(), capacity=SEQUENCE, padding_token=0)([[0]], np.array([0]))
    pairs = {name: (PREFERENCES[name][0], _pairs(name)) for name in ("general", "single tokens")}
    return {"pretraining": (NextToken(), plain), "fine-tuning": (NextToken(), packed), **pairs}


def _pairs(name: str) -> Batch:
    _, chosen, single_tokens = PREFERENCES[name]
    return pair_batches(chosen, single_tokens=single_tokens)[0]


def _train(model: Any, objective: Objective, batch: Batch) -> list[str]:
    """Forward and backward, with gradients beside the weights as in training."""
    for weight in model.parameters():
        weight.main_grad = torch.zeros_like(weight)
    if not model.pre_process:
        rows, places = batch.tokens_BS.shape
        model.set_input_tensor(torch.randn(places, rows, SHAPE.hidden, requires_grad=True))
    with Reads(model) as reads:
        output, loss = objective.forward(batch, model, torch.device("cpu"))
        (loss(output)[0] if model.post_process else output.sum()).backward()
    return sorted(reads.early) + [f"the module of {name} is never called" for name in reads.waiting.values()]


def early_reads_of_a_careless_model() -> list[str]:
    """Early reads found where a weight is used without its module."""
    first, second = (torch.nn.Linear(3, 3, bias=False) for _ in range(2))
    careless = torch.nn.Sequential(first, second)
    with Reads(careless) as reads:
        second(torch.nn.functional.linear(torch.ones(2, 3), first.weight.t().contiguous()))
    return sorted(reads.early)

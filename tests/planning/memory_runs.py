"""A rank of the memory planner's tests: one real training step, with everything in it weighed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from megaphi.engine.run_config import RunConfig
from tests.engine.layout_runs import step_batches

if TYPE_CHECKING:
    from torch import Tensor


class Ledger:
    """Bytes of the storages that autograd holds for a backward pass: now, and at most."""

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
    batches = step_batches(run, step=0, replica=world.replica, replicas=world.replicas)
    with torch.autograd.graph.saved_tensors_hooks(ledger.hold, lambda held: held.tensor):
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

"""What a rank of the memory planner's tests runs: one real training step, with everything in it weighed."""

from __future__ import annotations

from megaphi.engine.run_config import RunConfig
from tests.engine.layout_runs import step_batches


def measured_bytes(run: RunConfig) -> dict[str, int]:
    """Bytes that this rank holds: weights, gradients, optimizer state, and what autograd keeps of a forward pass."""
    import torch

    from megaphi.engine.optimizer import state_pieces
    from megaphi.engine.run_config import check
    from megaphi.engine.train_step import train_step
    from megaphi.engine.training_model import build_training_model
    from megaphi.parallel.launcher import detect
    from megaphi.parallel.world import start_world

    run = check(run, world_size=detect().world_size)
    world = start_world(run.layout, seed=run.seed)
    model = build_training_model(run, world)
    (chunk,) = model.chunks
    parameters = list(chunk.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def watched(*arguments: object, **names: object) -> object:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return forward(*arguments, **names)

    forward, chunk.forward = chunk.forward, watched
    train_step(model, step_batches(run, step=0, replica=world.replica, replicas=world.replicas), learning_rate=1e-3)
    pieces = [state_pieces(model.optimizer, parameter) for parameter in parameters]
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "weights": sum(parameter.nbytes for parameter in parameters),
        "gradients": sum(parameter.main_grad.nbytes for parameter in parameters),  # pyright: ignore
        "optimizer": sum(part.nbytes for piece in pieces if piece is not None for part in piece.tensors.values()),
        "activations": sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    }

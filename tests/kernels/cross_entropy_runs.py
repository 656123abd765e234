"""Ranks of the cross-entropy tests: each holds its part of 30 tokens, and perhaps of as much padding."""

from __future__ import annotations

from typing import Any


def losses_and_gradients(kind: str, z_weight: float) -> dict[str, Any]:
    """Losses and this rank's gradient, by the kernel and by its definition; `cut` is the dimension of the parts."""
    import torch
    import torch.distributed as distributed

    from megaphi.kernels import definitions
    from megaphi.kernels.checks import IGNORED
    from megaphi.kernels.cross_entropy import cross_entropy, linear_cross_entropy
    from megaphi.parallel.layout import ParallelLayout
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.parallel.world import start_world
    from tests.kernels.exactness import numbers, results

    ranks, rank = detect().world_size, detect().rank
    start_world(ParallelLayout(tensor=ranks), seed=0)
    group = distributed.group.WORLD
    labels = torch.tensor([0, 29, 14, IGNORED, 10, 15, 20])
    if kind == "whole":
        logits = numbers(7, 30, dtype=torch.float32, spread=3.0).chunk(ranks, dim=1)[rank].contiguous()
        inputs, cut = [logits, labels], 1
        kernel, definition = cross_entropy, definitions.cross_entropy
    else:
        hidden = numbers(7, 6, dtype=torch.float32)
        rows = 60 if kind == "padded" else 30
        weight = numbers(rows, 6, dtype=torch.float32, seed=1).chunk(ranks)[rank].contiguous()
        inputs, cut = [weight, labels], 0

        def kernel(weight, labels, **settings):
            return linear_cross_entropy(hidden, weight, labels, vocabulary=30, chunk_tokens=3, **settings)

        def definition(weight, labels, **settings):
            return definitions.linear_cross_entropy(hidden, weight, labels, vocabulary=30, **settings)

    settings = {"group": group, "z_weight": z_weight}
    losses, gradient = results(lambda *given: kernel(*given, **settings), inputs)
    defined, defined_gradient = results(lambda *given: definition(*given, **settings), inputs)
    return {
        "losses": losses,
        "gradient": gradient,
        "defined": defined,
        "defined_gradient": defined_gradient,
        "cut": cut,
    }

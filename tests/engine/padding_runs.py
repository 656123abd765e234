"""Ranks of the padding tests: many cases in one set of processes, all with vocabularies nobody divides.

SIX has as many heads and groups as 1, 2, 3 and 6 tensor ranks share, TEN suits five. At three ranks and 100 tokens the
last rank's part (64 rows) is nothing but padding.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from megaphi.conversion.open_weights import open_weights
from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import RunConfig
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import tiny_run, train

if TYPE_CHECKING:
    from megaphi.engine.model.training_model import TrainingModel

SIX = Architecture(layers=2, hidden=48, feed_forward=96, heads=6, key_value_groups=6, head_size=8, vocabulary=257)
TEN = dataclasses.replace(SIX, hidden=40, feed_forward=80, heads=10, key_value_groups=10, head_size=4, vocabulary=362)
Case = tuple[RunConfig, dict[str, Any]]
"""A run, and how `train` is to run it."""


def case(
    layout: dict[str, Any],
    model: dict[str, Any] | None = None,
    *,
    like: Architecture = SIX,
    fields: dict[str, Any] | None = None,
    **how: Any,
) -> Case:
    run = tiny_run(
        folder=how.pop("folder", "unused"),
        batch=BatchShape(sequence_length=30, global_batch=4, micro_batch=2),
        layout=ParallelLayout(**layout),
        model=dataclasses.replace(like, **(model or {})),
        **(fields or {}),
    )
    return run, {"steps": 4, **how}


def trained(cases: list[Case]) -> list[dict[str, Any]]:
    """`train`'s results, and how many elements of padding this rank held in each case: after every step all zero."""
    results = []
    for run, how in cases:
        seen: list[int] = []

        def watch(model: TrainingModel, seen: list[int] = seen) -> None:
            seen.append(zeros_of_padding(model))

        results.append({**train(run, **how, after_step=watch), "padding": seen[-1] if seen else None})
    return results


def zeros_of_padding(model: TrainingModel) -> int:
    """Elements of padding; weights, gradients and moments there must be exactly zero."""
    from megaphi.engine.model.optimizer import state_pieces
    from megaphi.engine.model.training_model import whole_parameters
    from megaphi.model.initialize import parameter_shares

    count = 0
    with whole_parameters(model):
        for share in (share for module in model.modules for share in parameter_shares(module)):
            parameter: Any = share.parameter
            for values in (parameter.detach(), parameter.main_grad):
                assert (values.view(-1)[share.numel :] == 0).all(), share.name
            owned = state_pieces(model.optimizer, parameter)
            if owned is not None:
                first = max(share.numel - owned.start, 0)
                assert all((values[first:] == 0).all() for values in owned.tensors.values()), share.name
            count += parameter.numel() - share.numel
    return count


def logits(checkpoints: list[str], layout: ParallelLayout) -> list[np.ndarray]:
    """Logits of the same few tokens by every checkpoint."""
    from megaphi.engine.inference.forward_only import logits_of, open_model

    tokens_BS = np.random.default_rng(0).integers(100, size=(2, 17))
    return [logits_of(open_model(open_weights(checkpoint), layout), tokens_BS).numpy() for checkpoint in checkpoints]

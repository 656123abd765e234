"""Recipes of the parity tests: one that uses many features at once, and one whose objective undoes two sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from megaphi.data.batch import Batch
from megaphi.engine.objective import LossFunction, NextToken
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.model.copied_groups import exchange
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.quickstart import quickstart_pretrain
from megaphi.stages.pretrain import mixture_of


def many_features() -> RunConfig:
    """Copied groups, a padded vocabulary, tied embeddings, isolated documents, uneven stages, bfloat16."""
    run = quickstart_pretrain()
    mixture = replace(mixture_of(run), isolate_documents=True, reset_positions=True)
    return replace(
        run,
        model=replace(
            run.model, key_value_groups=3, vocabulary=4_095, tied_embeddings=True, loss_chunk_tokens=128, layers=5
        ),
        layout=ParallelLayout(tensor=2, pipeline=2, sequence_parallel=True, stage_layers=(3, 2)),
        task=replace(run.task, mixture=mixture),
        recompute="selective",
        precision=NumericPrecision(parameters="bfloat16"),
    )


def forgetful() -> RunConfig:
    """Two sums over tensor ranks are left out."""
    run = many_features()
    task = replace(run.task, objective=f"{Path(__file__)}:Forgetful")
    return replace(run, task=task, precision=NumericPrecision(parameters="float32"))


class Forgetful(NextToken):
    """Next tokens; gradients of copied groups are not returned, those of norms not summed over parts of sequences."""

    def __init__(self) -> None:
        exchange.return_gradients = lambda parameter, copies: None

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[torch.Tensor, LossFunction]:
        for parameter in chunk.parameters():
            parameter.sequence_parallel = False  # pyright: ignore[reportAttributeAccessIssue]
        return super().forward(batch, chunk, device)

"""Ranks of the comparison of replicas: a model in any layout, some bits of which are flipped on some ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as distributed

from megaphi.engine.model.replicas import replica_differences
from megaphi.model.initialize import parameter_shares
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, build, tiny_run

Flips = dict[int, str]
"""Rank -> the tensor of which it holds a flipped bit, by its name in the whole model."""


def differences_of(cases: list[tuple[ParallelLayout, Flips]]) -> list[tuple[list[str], list[str]]]:
    """Differences that the comparison finds in each case, before a bit is flipped and after."""
    found = []
    for layout, flips in cases:
        model = build(tiny_run(layout=layout, model=replace(TINY, layers=2)))
        before = replica_differences(model)
        if (name := flips.get(distributed.get_rank())) is not None:
            shares = [share for module in model.modules for share in parameter_shares(module)]
            (weight,) = (share.parameter.data for share in shares if share.name == name)
            weight.view(-1).view(torch.int32)[5] ^= 1 << 9
        found.append((before, replica_differences(model)))
    return found

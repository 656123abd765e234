"""The mixture ablations of Phi-4's report: a 7B model on 1T tokens, four ways to fill three quarters of them (table 4).

Code and acquired text keep a quarter of the tokens, in the proportion of the final mixture; synthetic data (S), web
rewrites (WR) and filtered web pages (W) share the rest. The report names neither the sizes of its 7B model nor its
learning rate: those here are defaults, seven billion parameters in Phi-4's shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import TrainingLength, ValidationPasses
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.recipes.phi4_14b import phi4_sources
from megaphi.stages.pretrain import Pretrain

PHI4_7B = Architecture(
    layers=32,
    hidden=4_096,
    feed_forward=12_288,
    heads=32,
    key_value_groups=8,
    head_size=128,
    vocabulary=100_352,
)
"""6,996,365,312 parameters."""
CONSTANT = {"code": 0.25 * 2 / 3, "acquired": 0.25 / 3}
"""Shares that the ablations do not touch; the final mixture has 20 % and 10 % of them."""
VARIED = 0.75


def phi4_7b_uniform() -> RunConfig:
    """Equal shares of synthetic data, web rewrites and web pages."""
    return _ablation("phi4_7b_uniform", {"synthetic": 1, "rewrites": 1, "web": 1})


def phi4_7b_s() -> RunConfig:
    """Synthetic data only, besides code and acquired text."""
    return _ablation("phi4_7b_s", {"synthetic": 1})


def phi4_7b_s_wr() -> RunConfig:
    """Synthetic data and web rewrites."""
    return _ablation("phi4_7b_s_wr", {"synthetic": 1, "rewrites": 1})


def phi4_7b_s_w() -> RunConfig:
    """Synthetic data and web pages."""
    return _ablation("phi4_7b_s_w", {"synthetic": 1, "web": 1})


def _ablation(name: str, parts: Mapping[str, int]) -> RunConfig:
    """42,400 steps of 5,760 sequences of 4,096 tokens: 1T tokens (paper)."""
    shares = {part: VARIED * weight / sum(parts.values()) for part, weight in parts.items()} | CONSTANT
    sources = tuple(
        dataclasses.replace(source, weight=shares[source.name]) for source in phi4_sources() if source.name in shares
    )
    return RunConfig(
        recipe=name,
        folder=f"runs/{name}",
        training=TrainingLength(steps=42_400),
        validation=ValidationPasses(every=1_000),
        layout=ParallelLayout(tensor=2, pipeline=2, sequence_parallel=True),
        model=PHI4_7B,
        batch=BatchShape(sequence_length=4_096, global_batch=5_760, micro_batch=1),
        task=Pretrain(mixture=Mixture(sources=sources)),
        optimizer=Optimizer(learning_rate=3e-4, weight_decay=0.1, warmup_steps=2_000),
    )

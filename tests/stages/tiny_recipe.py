"""A recipe of a few seconds, on token files that the test writes: `tiny_recipe.py:tiny`."""

from __future__ import annotations

import os

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import TrainingLength, ValidationPasses
from megaphi.model.architecture import Architecture
from megaphi.stages.pretrain import Pretrain


def tiny() -> RunConfig:
    """40 steps of 4 sequences of 32 tokens; TINY_DATA names the folder with the token files."""
    folder = os.environ["TINY_DATA"]
    sources = tuple(
        Source(name=name, weight=weight, paths=(f"{folder}/{name}",), validation_paths=(f"{folder}/{name}",))
        for name, weight in (("web", 0.6), ("code", 0.4))
    )
    return RunConfig(
        recipe="tiny",
        folder=f"{folder}/run",
        training=TrainingLength(steps=40),
        validation=ValidationPasses(every=20, samples=4),
        saving=Saving(every=10),
        model=Architecture(
            layers=2, hidden=32, feed_forward=48, heads=4, key_value_groups=2, head_size=8, vocabulary=512
        ),
        batch=BatchShape(sequence_length=32, global_batch=4, micro_batch=2),
        task=Pretrain(mixture=Mixture(sources=sources)),
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=4),
        precision=NumericPrecision(parameters="float32"),
    )

"""Micro-batches of random tokens, which every side of a benchmark of training steps gets."""

from __future__ import annotations

import numpy as np

from megaphi.data.batch import Batch
from megaphi.engine.run_config import RunConfig


def random_batches(run: RunConfig, generator: np.random.Generator) -> list[Batch]:
    """The micro-batches of one step on one replica."""
    shape = (run.batch.micro_batch, run.batch.sequence_length + 1)
    batches = []
    for _ in range(run.batch.global_batch // run.batch.micro_batch):
        rows = generator.integers(run.model.vocabulary, size=shape)
        batch = Batch(
            tokens_BS=np.ascontiguousarray(rows[:, :-1]),
            labels_BS=np.ascontiguousarray(rows[:, 1:]),
            loss_mask_BS=np.ones((shape[0], shape[1] - 1), dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=np.arange(shape[0]),
        )
        batches.append(batch)
    return batches

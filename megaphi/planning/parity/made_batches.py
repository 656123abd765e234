"""Batches of the twin: tokens that are a pure function of their sample's number, the same on every machine.

A noisy walk through the vocabulary, so that there is something to learn; rows with unequal numbers of trained targets,
so that a mean of means instead of the global mean would show; and documents, where the recipe isolates them.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from megaphi.data.batch import Batch, document_positions
from megaphi.engine.run_config import RunConfig
from megaphi.stages.pretrain import mixture_of


def step_batches(run: RunConfig, *, step: int, replica: int, replicas: int) -> list[Batch]:
    """Micro-batches of a replica in update number `step`, counted from 0."""
    first = step * run.batch.global_batch
    numbers = np.arange(first, first + run.batch.global_batch).reshape(-1, replicas, run.batch.micro_batch)
    return [_batch(part_B, run) for part_B in numbers[:, replica]]


def data_digest(run: RunConfig) -> str:
    """SHA-256 of everything that all steps read."""
    digest = hashlib.sha256()
    for step in range(run.training.steps):
        for batch in step_batches(run, step=step, replica=0, replicas=1):
            for array in (batch.tokens_BS, batch.labels_BS, batch.loss_mask_BS, batch.document_ids_BS):
                digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()


def _batch(numbers_B: NDArray[np.int64], run: RunConfig) -> Batch:
    length, mixture = run.batch.sequence_length, mixture_of(run)
    rows = np.stack([_walk(int(number), length, run.model.vocabulary) for number in numbers_B])
    mask_BS = np.ones((len(rows), length), dtype=np.float32)
    documents_BS = np.zeros((len(rows), length), dtype=np.int32)
    for row, number in enumerate(numbers_B):
        mask_BS[row, : number % 5] = 0.0
        documents_BS[row, length // 3 + number % 7 :] += 1
        documents_BS[row, length // 2 + number % 11 :] += 1
    return Batch(
        tokens_BS=np.ascontiguousarray(rows[:, :-1]),
        labels_BS=np.ascontiguousarray(rows[:, 1:]),
        loss_mask_BS=mask_BS,
        document_ids_BS=documents_BS if mixture.isolate_documents else None,
        sample_numbers_B=numbers_B,
        positions_BS=document_positions(documents_BS) if mixture.reset_positions else None,
    )


def _walk(number: int, length: int, vocabulary: int) -> NDArray[np.int64]:
    """`length + 1` tokens. PCG64 gives the same numbers everywhere."""
    draw = np.random.Generator(np.random.PCG64(number))
    steps = np.array([1, 1, 1, 2, 3])[draw.integers(0, 5, length + 1)]
    return (draw.integers(vocabulary) + np.cumsum(steps)) % vocabulary

"""Ranks of the document isolation test."""

from __future__ import annotations

import dataclasses

import numpy as np

from megaphi.data.batch import Batch
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, sample, tiny_run


def losses_of_packed_and_separate_documents(layout: ParallelLayout, **computed_by: str) -> tuple[float, float, float]:
    """Mean loss of two documents in one window: isolated, each in a window of its own, and not isolated."""
    from megaphi.engine.model.training_model import build_training_model
    from megaphi.engine.run_config import check
    from megaphi.engine.training.train_step import evaluate, means_of
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.parallel.world import start_world

    # Weights of this size make attention matter: near zero it would hardly look at anything.
    sharp = dataclasses.replace(TINY, initial_std=0.3, **computed_by)
    run = check(tiny_run(layout=layout, model=sharp), world_size=detect().world_size)
    world = start_world(run.layout, seed=run.seed)
    model = build_training_model(run, world)
    first, second = (sample(number, length=16, vocabulary=256) for number in (1, 2))
    packed = np.concatenate((first[:-1], second[:-1]))
    labels = np.concatenate((first[1:], second[1:]))
    documents = np.repeat(np.array([0, 1], dtype=np.int32), 16)
    isolated = [_batch(packed, labels, documents)]
    crossing = [_batch(packed, labels, None)]
    separate = [_alone(first), _alone(second)]
    isolated, separate, crossing = (means_of(part)["loss"] for part in evaluate(model, [isolated, separate, crossing]))
    return isolated, separate, crossing


def _batch(tokens: np.ndarray, labels: np.ndarray, documents: np.ndarray | None, trained: int = 32) -> Batch:
    mask = (np.arange(32) < trained).astype(np.float32)
    return Batch(
        tokens_BS=tokens[None],
        labels_BS=labels[None],
        loss_mask_BS=mask[None],
        document_ids_BS=None if documents is None else documents[None],
        sample_numbers_B=np.zeros(1, dtype=np.int64),
    )


def _alone(document: np.ndarray) -> Batch:
    """One document at the start of a window; what follows is padding that is not trained on."""
    padding = np.zeros(16, dtype=np.int64)
    tokens, labels = (np.concatenate((part, padding)) for part in (document[:-1], document[1:]))
    return _batch(tokens, labels, None, trained=16)

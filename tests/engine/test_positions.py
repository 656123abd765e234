"""The positions that a step hands to the model: the batch's own where it has some, cut as every other array is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megaphi.data.batch import Batch, document_positions
from megaphi.engine import objective

IDS_BS = np.array([[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 3, 3, 3, 3, 3]], dtype=np.int32)
POSITIONS_BS = np.array([[0, 1, 2, 0, 1, 0, 1, 2], [0, 0, 0, 0, 1, 2, 3, 4]])


def batch_of(positions_BS):
    zeros_BS = np.zeros((2, 8), dtype=np.int64)
    return Batch(
        tokens_BS=zeros_BS,
        labels_BS=zeros_BS,
        loss_mask_BS=zeros_BS.astype(np.float32),
        document_ids_BS=None,
        positions_BS=positions_BS,
        sample_numbers_B=np.arange(2),
    )


class FakeGroup:
    """A context parallel group of so many ranks."""

    def __init__(self, ranks, rank):
        self.size, self.rank = lambda: ranks, lambda: rank


class Recorder(torch.nn.Module):
    """A model that remembers what it was given."""

    def forward(self, tokens_BS, context):
        self.given = context
        return torch.zeros(1)


def test_positions_start_anew_with_every_document():
    assert (document_positions(IDS_BS) == POSITIONS_BS).all()
    assert document_positions(IDS_BS[:, :1]).tolist() == [[0], [0]]


@pytest.mark.parametrize("ranks", [1, 2])
def test_positions_of_a_context_rank(monkeypatch, ranks):
    monkeypatch.setattr(objective.parallel_state, "get_context_parallel_world_size", lambda: ranks)
    for rank in range(ranks):
        group = FakeGroup(ranks, rank)
        monkeypatch.setattr(objective.parallel_state, "get_context_parallel_group", lambda group=group: group)
        monkeypatch.setattr(objective.parallel_state, "get_context_parallel_rank", lambda rank=rank: rank)
        places = [0, 1, 6, 7] if rank == 0 else [2, 3, 4, 5]
        chosen = places if ranks == 2 else list(range(8))
        own, none = Recorder(), Recorder()
        objective.NextToken().forward(batch_of(document_positions(IDS_BS)), own, torch.device("cpu"))
        objective.NextToken().forward(batch_of(None), none, torch.device("cpu"))
        assert own.given.positions_BS.tolist() == POSITIONS_BS[:, chosen].tolist()
        assert own.given.positions_BS.dtype == torch.int64
        assert none.given.positions_BS is None  # the model counts by itself
        assert own.given.attention.context_ranks == ranks

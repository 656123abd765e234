"""Ranks of the tests of context parallelism: one step on rows whose segments lie across the chunks of the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from megaphi.data.batch import Batch, document_positions
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.rows import conversation_batch
from megaphi.engine.objective import NextToken
from megaphi.parallel.layout import ParallelLayout
from tests.stages.packed_runs import CASES as PREFERENCES
from tests.stages.packed_runs import SEQUENCE, SHAPE, a_step, a_whole_step, conversations, pair_batches, step_run

if TYPE_CHECKING:
    import torch

    from megaphi.engine.training.train_step import StepResult
    from megaphi.model.forward.attention import Attention

LAYOUTS = {
    "CP2": ParallelLayout(context=2),
    "CP4": ParallelLayout(context=4),
    "TP2xCP2": ParallelLayout(tensor=2, context=2, sequence_parallel=True),
    "PP2xCP2": ParallelLayout(pipeline=2, context=2),
    "PP2xVPP2xCP2": ParallelLayout(pipeline=2, virtual_pipeline=2, context=2),
    "CP2xDP2": ParallelLayout(context=2, data=2),
}
LENGTHS = [[SEQUENCE], [5, 1, 18, 24], [12, 12, 12, 12], [1, 46, 1], [30, 18], [6, 6, 1, 23, 12], [47, 1], [13, 35]]
"""Documents of rows: whole ones, of one token, that end with the chunks of two and four ranks, and across them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step."""

    batches: Sequence[Batch]
    objective: Any = None
    fields: dict[str, Any] = field(default_factory=dict)


def documents(*, rows: int, isolated: bool = True, restart: bool = False) -> list[Batch]:
    """Random tokens, some of them not trained on, as micro-batches of so many rows."""
    generator = np.random.default_rng(12)
    tokens_BT = generator.integers(SHAPE.vocabulary, size=(len(LENGTHS), SEQUENCE + 1))
    mask_BS = (generator.random((len(LENGTHS), SEQUENCE)) < 0.8).astype(np.float32)
    ids_BS = np.stack([np.repeat(np.arange(len(lengths), dtype=np.int32), lengths) for lengths in LENGTHS])
    return [
        Batch(
            tokens_BS=tokens_BT[first : first + rows, :-1].copy(),
            labels_BS=tokens_BT[first : first + rows, 1:].copy(),
            loss_mask_BS=mask_BS[first : first + rows],
            document_ids_BS=ids_BS[first : first + rows] if isolated else None,
            positions_BS=document_positions(ids_BS[first : first + rows]) if restart else None,
            sample_numbers_B=np.arange(first, first + rows),
        )
        for first in range(0, len(LENGTHS), rows)
    ]


def packed(*, rows: int) -> list[Batch]:
    """Packed conversations; with two rows in a micro-batch, chunks do not end where rows do."""
    samples = conversations()
    make = conversation_batch(samples, capacity=SEQUENCE, padding_token=0)
    order = PackedEpochs([len(sample.ids) for sample in samples], capacity=SEQUENCE, seed=1)
    numbers = np.arange(8).reshape(-1, rows)
    return [make([order.row(number) for number in part], np.array(part)) for part in numbers.tolist()]


def _preferences(name: str) -> Case:
    rules, pairs, single_tokens = PREFERENCES[name]
    return Case(batches=pair_batches(pairs, single_tokens=single_tokens), objective=rules)


MOST = {
    "neither": Case(batches=documents(rows=2, isolated=False)),
    "isolated": Case(batches=documents(rows=2)),
    "isolated, positions from 0": Case(batches=documents(rows=1, restart=True)),
    "packed": Case(batches=packed(rows=2)),
    "pairs": _preferences("smooth, sft"),
    "pairs and single tokens": _preferences("sigmoid"),
}
CASES = {
    **MOST,
    "isolated, reference": Case(batches=documents(rows=2), fields={"kernels": "reference"}),
    "isolated, softmax": Case(batches=documents(rows=1), fields={"attention": "softmax"}),
    "packed, recomputed": Case(batches=packed(rows=1), fields={"recompute": "selective", "loss_chunk_tokens": 5}),
    "pairs, recomputed": Case(
        batches=MOST["pairs"].batches, objective=MOST["pairs"].objective, fields={"recompute": "full"}
    ),
}


def steps(folder: str, checkpoint: str, layout: ParallelLayout, names: Sequence[str]) -> dict[str, StepResult]:
    """The result of every case; its gradients are in `folder/NAME`."""
    return {
        name: a_whole_step(f"{folder}/{name}", checkpoint, layout, case.batches, case.objective, **case.fields)
        for name, case in ((name, CASES[name]) for name in names)
    }


class IgnoresABoundary(NextToken):
    """Isolated documents, of which one context rank takes the first two of each micro-batch for one."""

    def attention(self, batch: Batch, device: torch.device) -> Attention:
        from megatron.core import parallel_state

        from megaphi.engine.objective import attention_within
        from megaphi.model.forward.segments import document_segments

        assert batch.document_ids_BS is not None
        table_N4 = document_segments(batch.document_ids_BS)
        if parallel_state.get_context_parallel_rank() == 1 and len(table_N4) > 1:
            first, second = table_N4[:2]
            table_N4 = np.concatenate(([[first[0], second[1], first[2], first[3]]], table_N4[2:]))
        return attention_within(table_N4, batch, device)


def a_step_that_ignores_a_boundary(folder: str, checkpoint: str) -> float:
    return a_step(folder, checkpoint, LAYOUTS["CP2"], documents(rows=1), IgnoresABoundary())


def saved_again(folder: str, checkpoint: str, layout: ParallelLayout) -> str:
    """Load a checkpoint under a layout and save it as it is; returns where."""
    from megaphi.engine.saving.saver import save_checkpoint
    from megaphi.engine.saving.shards import load_checkpoint
    from tests.engine.layout_runs import build

    model = build(step_run(folder, layout))
    load_checkpoint(model, checkpoint)
    return str(save_checkpoint(model, {"step": 1}))

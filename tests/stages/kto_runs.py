"""Ranks of the tests of KTO: one step of `examples/kto.py` on given answers."""

from __future__ import annotations

import numpy as np

from examples.kto import JudgedAnswer, KtoObjective, judged_batch
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.pair_rows import length_of, units_of
from megaphi.parallel.layout import ParallelLayout
from tests.stages.packed_runs import SEQUENCE, SHAPE, a_step

OBJECTIVE = KtoObjective(beta=0.08, liked_weight=1.0, disliked_weight=1.3)


def judged_answers() -> tuple[list[JudgedAnswer], np.ndarray]:
    """Answers of many lengths, and log-probabilities of a reference that differ from the model's by much."""
    generator = np.random.default_rng(21)

    def tokens(count: int) -> np.ndarray:
        return generator.integers(SHAPE.vocabulary, size=count).astype(np.int32)

    sizes = [(9, 5), (3, 1), (12, 8), (1, 2), (20, 3), (7, 7), (4, 1), (5, 4)]
    own = [tokens(answer) for _, answer in sizes]
    answers = [
        JudgedAnswer(prompt=tokens(prompt), chosen=own[at], rejected=own[at - 1], liked=at % 3 != 0)
        for at, (prompt, _) in enumerate(sizes)
    ]
    lengths_N2 = np.array([[len(answer.chosen), len(answer.rejected)] for answer in answers])
    return answers, -7.0 * lengths_N2 - generator.random(lengths_N2.shape) * 4


def a_kto_step(folder: str, checkpoint: str, layout: ParallelLayout) -> float:
    """The loss of one update; micro-batches are dealt to the replicas in turn."""
    answers, reference_N2 = judged_answers()
    units = units_of(answers, single_tokens=False)
    make = judged_batch(units, reference_N2, capacity=SEQUENCE, padding_token=0)
    rows = PackedEpochs([length_of(unit) for unit in units], capacity=SEQUENCE, seed=1)
    even = rows.rows_per_epoch + rows.rows_per_epoch % 2
    batches = [make([rows.row(at) if at < rows.rows_per_epoch else []], np.array([at])) for at in range(even)]
    assert len(batches) >= 4
    return a_step(folder, checkpoint, layout, batches, OBJECTIVE)

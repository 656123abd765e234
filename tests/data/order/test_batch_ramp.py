"""A growing batch: step by step the one that Megatron-Core's own calculator gives."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

from megaphi.data.batch import BatchShape
from megaphi.data.order.batch_ramp import BatchRamp
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.order.schedule import lay_out_stages
from megaphi.errors import InputError

MIXTURE = (Source(name="web", weight=1.0, paths=("web",)),)


def ours(ramp: BatchRamp, batch: BatchShape, steps: int) -> list[int]:
    """Sequences of every step, as a run lays its stages out."""
    mixture = Mixture(sources=MIXTURE, stages=ramp.stages(batch))
    spans = lay_out_stages(mixture, steps=steps, sequence_length=batch.sequence_length, global_batch=batch.global_batch)
    return [span.global_batch for span in spans for _ in range(span.first_step, span.end_step)]


def megatrons(ramp: BatchRamp, batch: BatchShape, steps: int) -> list[int]:
    calculator = RampupBatchsizeNumMicroBatchesCalculator(
        batch.global_batch, 1, 1, False, 1, ramp.start, ramp.increment, ramp.samples
    )
    found, read = [], 0
    for _ in range(steps):
        calculator.update(read, False)
        found.append(calculator.get_current_global_batch_size())
        read += found[-1]
    return found


@given(
    start=st.integers(1, 40),
    increment=st.integers(1, 20),
    increments=st.integers(1, 12),
    stretch=st.integers(1, 300),
    length=st.sampled_from([1, 32, 4_096]),
)
def test_every_step_has_megatrons_batch(start, increment, increments, stretch, length):
    batch = BatchShape(sequence_length=length, global_batch=start + increment * increments, micro_batch=1)
    ramp = BatchRamp(start=start, increment=increment, samples=stretch * increments)
    steps = ramp.steps(batch, samples=ramp.samples) + 3
    found = ours(ramp, batch, steps)
    assert found == megatrons(ramp, batch, steps)
    assert sum(found[:-3]) >= ramp.samples > sum(found[:-4])


def test_samples_in_steps():
    """4 + 4 + 4, then 6 + 6, then 8 for ever: stretches of 12 samples."""
    batch = BatchShape(sequence_length=16, global_batch=8, micro_batch=1)
    ramp = BatchRamp(start=4, increment=2, samples=24)
    assert list(islice(ours(ramp, batch, 20), 7)) == [4, 4, 4, 6, 6, 8, 8]
    assert [stage.tokens for stage in ramp.stages(batch)] == [192, 192, None]
    found = [ramp.steps(batch, samples=samples) for samples in (0, 1, 4, 5, 12, 13, 24, 25, 32, 33)]
    assert found == [0, 1, 1, 2, 3, 4, 5, 6, 6, 7]


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        (BatchRamp(start=4, increment=3, samples=9), "a ramp from 4 by 3 does not reach batch.global_batch=8"),
        (BatchRamp(start=8, increment=1, samples=9), "must be above 0"),
        (BatchRamp(start=0, increment=1, samples=9), "ramp.start=0: must be at least 1"),
    ],
)
def test_a_ramp_that_leads_elsewhere_is_refused(ramp, message):
    with pytest.raises(InputError) as refused:
        ramp.stages(BatchShape(sequence_length=16, global_batch=8, micro_batch=1))
    assert message in str(refused.value)

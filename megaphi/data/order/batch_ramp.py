"""A global batch that grows at the beginning of a run, as stages of the mixture.

Megatron-LM's `--rampup-batch-size START INCREMENT SAMPLES`: from START sequences a step to the run's global batch by
INCREMENT, in stretches of equally many samples, SAMPLES in all. A step belongs to the stretch in which it begins, so a
stretch ends with the first step that reaches its end. In a recipe:

    ramp = BatchRamp(start=768, increment=768, samples=10_000_000)
    Mixture(sources=sources, stages=ramp.stages(batch))

The surprising fact: the learning rate counts steps here, Megatron's samples once a batch grows. Warm-up and decay are
`ramp.steps(batch, samples=...)` long for what Megatron names in samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from megaphi.config import Range, check_values
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Stage
from megaphi.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRamp:
    """Megatron-LM's three numbers."""

    start: Annotated[int, Range(minimum=1)]
    """Sequences of the first steps."""
    increment: Annotated[int, Range(minimum=1)]
    """Sequences that are added each time; the replicas times batch.micro_batch must divide every batch."""
    samples: Annotated[int, Range(minimum=1)]
    """Sequences over which the batch grows."""

    def stages(self, batch: BatchShape) -> tuple[Stage, ...]:
        """A stage for every batch size, and one that lasts to the end of the run; `batch`: the one that is reached.

        Raises:
            InputError: the increments do not lead from the start to batch.global_batch.
        """
        growing = tuple(
            Stage(name=f"batch_{size}", tokens=steps * size * batch.sequence_length, global_batch=size)
            for size, steps in self._growing(batch)
        )
        return (*growing, Stage(name=f"batch_{batch.global_batch}"))

    def steps(self, batch: BatchShape, *, samples: int) -> int:
        """Steps after which a run that ramps up has read at least so many samples."""
        steps, read = 0, 0
        for size, some in self._growing(batch):
            if read + some * size >= samples:
                return steps + max(0, -(-(samples - read) // size))
            steps, read = steps + some, read + some * size
        return steps + -(-(samples - read) // batch.global_batch)

    def _growing(self, batch: BatchShape) -> Iterator[tuple[int, int]]:
        """(sequences a step, steps) of every size below the last."""
        check_values(self, where="ramp")
        missing = batch.global_batch - self.start
        if missing <= 0 or missing % self.increment:
            raise InputError(
                f"a ramp from {self.start} by {self.increment} does not reach batch.global_batch={batch.global_batch}:"
                f" the increment must divide the difference, which must be above 0"
            )
        sizes = range(self.start, batch.global_batch, self.increment)
        read = 0
        for number, size in enumerate(sizes, start=1):
            end = -(-number * self.samples // len(sizes))  # of the stretch
            steps = max(0, -(-(end - read) // size))
            read += steps * size
            if steps:  # a large batch may pass a whole stretch
                yield size, steps

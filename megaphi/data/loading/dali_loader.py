"""The same batches through NVIDIA DALI, for machines where the upload to the device is worth hiding. Optional.

`dali_steps` runs a DALI pipeline whose only input is a stateless function of the step: it asks the mixture for the
samples of that step, all micro-batches at once, and DALI copies the arrays, uploads them where a device is named, and
hands them out in order. Resuming is the number of the next step. DALI's own checkpoints are not used: after a change of
the batch size they continue at the wrong data.

When it helps: not on CPUs. There it is one copy more, about a millisecond per 32,768 tokens, and reads nothing faster,
a background thread (`prefetch`) being as far ahead (`benchmarks/loader_throughput.py`). On a GPU the upload of later
steps runs beside the step that trains; that is under a megabyte per 32,768 tokens, so look for a gain where steps are
very short or the host's copies are in the way, and measure. The path to a GPU has not yet been run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import fields
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from megaphi.data.batch import Batch
from megaphi.errors import InputError

if TYPE_CHECKING:
    from megaphi.data.loading.loader import OpenMixture

FIELDS = tuple(field.name for field in fields(Batch))
Numbers = Callable[[int], NDArray[np.int64]]
"""Step -> sample numbers [micro_batches, micro_batch], as `batch_sample_numbers` deals them out."""


def dali_steps(
    mixture: OpenMixture,
    numbers: Numbers,
    *,
    start: int = 0,
    stop: int | None = None,
    depth: int = 2,
    device: int | None = None,
) -> Generator[list[Batch], None, None]:
    """The micro-batches of steps `start`, `start + 1`, ..., each equal to `mixture.batch` of its sample numbers.

    The mixture is read in the caller's thread; put `prefetch` around it to read in another.

    Args:
        numbers: pure; the shape of what it gives may change from step to step.
        stop: the step to end before; None never ends.
        depth: steps that DALI works ahead.
        device: CUDA device that the arrays are uploaded to, as torch tensors on it; None leaves them NumPy arrays.

    Raises:
        InputError: DALI is not installed, or what `mixture.batch` raised, in place of the step that it belongs to.
    """
    if stop is not None and start >= stop:
        return
    steps = _Steps(mixture, numbers, start=start, stop=stop)
    present = steps.present_fields()
    pipeline, to_torch, stream = _build(steps, present, depth=depth, device=device)
    for step in count(start):
        try:
            outputs = pipeline.run(stream)
        except StopIteration:
            break
        shape = numbers(step).shape
        arrays: dict[str, Any] = dict.fromkeys(FIELDS)
        for name, output in zip(present, outputs, strict=True):
            tensor = to_torch(output.as_tensor(), copy=True)[0]
            arrays[name] = (tensor if device is not None else tensor.numpy()).reshape(*shape, *tensor.shape[1:])
        yield [_micro_batch(arrays, place) for place in range(shape[0])]
    if steps.error is not None:
        raise steps.error


def _micro_batch(arrays: dict[str, Any], place: int) -> Batch:
    values: dict[str, Any] = {name: None if array is None else array[place] for name, array in arrays.items()}
    return Batch(**values)


class _Steps:
    """DALI's source: iteration -> one array per field, each the only element of its list.

    A step is one DALI sample, so its shape may change, and needs no batch size. An error is kept and ends the data; the
    steps that were read before it still come out.
    """

    def __init__(self, mixture: OpenMixture, numbers: Numbers, *, start: int, stop: int | None) -> None:
        self.mixture = mixture
        self.numbers = numbers
        self.start = start
        self.stop = stop
        self.error: Exception | None = None

    def present_fields(self) -> tuple[str, ...]:
        """Fields that the batches of this mixture have (None stands for one that it does not have)."""
        batch = self.mixture.batch(self.numbers(self.start).reshape(-1)[:1])
        return tuple(name for name in FIELDS if getattr(batch, name) is not None)

    def __call__(self, iteration: int) -> list[list[NDArray[Any]]]:
        step = self.start + iteration
        if self.error is not None or step == self.stop:
            raise StopIteration
        try:
            batch = self.mixture.batch(self.numbers(step).reshape(-1))
        except Exception as error:
            self.error = error
            raise StopIteration from error
        present = (getattr(batch, name) for name in FIELDS)
        return [[array] for array in present if array is not None]


def _build(steps: _Steps, present: tuple[str, ...], *, depth: int, device: int | None) -> tuple[Any, Any, Any]:
    """(pipeline, DALI's copy to torch, torch's stream of the device) for a source of these fields."""
    try:
        from nvidia.dali import Pipeline, fn  # pyright: ignore[reportMissingImports]
        from nvidia.dali.plugin.pytorch import torch_utils  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "reading through DALI needs nvidia-dali: `pip install 'megaphi[dali]'` (0.6 GB), or read without it, which"
            " gives the same batches"
        ) from error
    import torch

    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=device, prefetch_queue_depth=depth)
    with pipeline:
        outputs = fn.external_source(source=steps, num_outputs=len(present), batch=True)
        pipeline.set_outputs(*(output if device is None else output.gpu() for output in outputs))
    pipeline.build()
    return pipeline, torch_utils.to_torch_tensor, None if device is None else torch.cuda.current_stream(device)

"""Decoding in steps of fixed shape, each captured once in a CUDA graph where there is a GPU, and replayed from then on.

A decode pass of a large model is hundreds of kernels of a few microseconds each, and launching them one by one takes
longer than they do. So passes that only decode are padded to a few numbers of tokens and widths of tables, and a step
is one copy of its inputs and one replay. Padding stores into a block of the cache that belongs to no sequence, and
attends to it; a query has the same result whatever else is in the call.

Not captured, and launched kernel by kernel: passes that prefill or copy blocks, passes of more tokens than the engine
has slots (long drafts), and all passes of a model that is cut into pipeline stages, which wait for each other on the
host. *Not yet run on a GPU.*

Legend: T tokens of a step, M blocks of a table, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megaphi.engine.inference.forward_only import InferenceModel, gathered_logits
from megaphi.kernels.loading import why_not
from megaphi.log import logger
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.paged_cache import PagedCache, PagedPass
from megaphi.model.forward.targets import AllLogits
from megaphi.model.forward.to_device import to_device

Replay = Callable[[], Tensor]
Capture = Callable[[Replay], Replay]
"""Takes a function of static tensors; what it returns does the same work again, and returns the same tensor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeInputs:
    """The numbers that a pass of decodes depends on, on the host."""

    numbers_4T: NDArray[np.int64]
    """Tokens, their positions, the rows of the cache that they are stored in, and how many positions each sees."""
    tables_TM: NDArray[np.int32]
    """Blocks of the sequence of each."""


class DecodeStep:
    """Logits of a pass that only decodes.

    Args:
        cache: its last block belongs to no sequence.
        largest: tokens of a step at most.
        capture: how a step is kept; None: it is computed each time.
    """

    def __init__(self, model: InferenceModel, cache: PagedCache, *, largest: int, capture: Capture | None) -> None:
        self._model, self._cache, self._capture = model, cache, capture
        self.sizes = _sizes(largest)
        keys, _ = next(iter(cache.layers.values()))
        self._spare_block, self._block_size = keys.shape[0] - 1, keys.shape[1]
        self._steps: dict[tuple[int, int], _FixedStep] = {}

    def takes(self, tokens: int) -> bool:
        return 0 < tokens <= self.sizes[-1]

    @torch.no_grad()
    def __call__(self, inputs: DecodeInputs) -> Tensor:
        """fp32 logits `[T, V]`, to be read before the next step overwrites them. Collective over tensor ranks."""
        tokens, blocks = inputs.tables_TM.shape
        size = next(size for size in self.sizes if size >= tokens)
        width = 1 << max(blocks - 1, 15).bit_length()
        step = self._steps.get((size, width))
        if step is None:
            step = _FixedStep(self._compute, size, width, device=self._model.world.device)
            step.fill(self._padding(size, width))
            step.replay = self._capture(step.compute) if self._capture else step.compute
            self._steps[size, width] = step
        padded = self._padding(size, width)
        padded.numbers_4T[:, :tokens] = inputs.numbers_4T
        padded.tables_TM[:tokens, :blocks] = inputs.tables_TM
        step.fill(padded)
        return step.replay()[:tokens]

    def _padding(self, size: int, width: int) -> DecodeInputs:
        """A step of nothing but padding: token 0 at position 0 of the spare block."""
        numbers_4T = np.zeros((4, size), dtype=np.int64)
        numbers_4T[2], numbers_4T[3] = self._spare_block * self._block_size, 1
        tables_TM = np.full((size, width), self._spare_block, dtype=np.int32)
        return DecodeInputs(numbers_4T=numbers_4T, tables_TM=tables_TM)

    def _compute(self, numbers_4T: Tensor, tables_TM: Tensor) -> Tensor:
        tokens_T, positions_T, rows_T, lengths_T = numbers_4T
        attention = PagedPass(
            cache=self._cache,
            cache_rows_T=rows_T,
            decodes=len(tokens_T),
            tables=tables_TM,
            lengths=lengths_T.to(torch.int32),
            prefill=None,
        )
        context = ForwardContext(attention=attention, positions_BS=positions_T[None], targets=AllLogits())
        logits_1TV = gathered_logits(self._model.module(tokens_T[None], context))
        return logits_1TV[0, :, : self._model.architecture.vocabulary]


class _FixedStep:
    """The static inputs of one shape, and what computes from them."""

    replay: Replay

    def __init__(
        self, compute: Callable[[Tensor, Tensor], Tensor], size: int, width: int, *, device: torch.device
    ) -> None:
        self._compute = compute
        self._numbers_4T = torch.zeros(4, size, dtype=torch.int64, device=device)
        self._tables_TM = torch.zeros(size, width, dtype=torch.int32, device=device)

    def fill(self, inputs: DecodeInputs) -> None:
        self._numbers_4T.copy_(to_device(inputs.numbers_4T, self._numbers_4T.device))
        self._tables_TM.copy_(to_device(inputs.tables_TM, self._tables_TM.device))

    def compute(self) -> Tensor:
        return self._compute(self._numbers_4T, self._tables_TM)


def decode_step(model: InferenceModel, cache: PagedCache, *, largest: int, fixed: bool | None) -> DecodeStep | None:
    """Steps of fixed shape for an engine of `largest` slots, where they can be; says on a GPU what is captured.

    `fixed`: None for those of a GPU, which are captured; True for those of a CPU too; False for none.
    """
    on_gpu = model.world.device.type == "cuda"
    if fixed is False or not (fixed or on_gpu):
        return None
    problem = _problem(model)
    if problem is None:
        if on_gpu:
            logger.info("decode steps are captured in CUDA graphs, each size when it is first needed")
        return DecodeStep(model, cache, largest=largest, capture=GraphCapture() if on_gpu else None)
    if on_gpu:
        logger.info("decode steps are not captured in CUDA graphs: %s", problem)
    return None


def _problem(model: InferenceModel) -> str | None:
    """The reason why a model's decode steps cannot be captured; None if they can."""
    if model.world.layout.pipeline > 1:
        return "pipeline stages wait for each other on the host"
    slow = why_not("paged_attention", model.world.device.type, model.module.config.params_dtype)
    return None if slow is None else f"attention over the cache is not compiled ({slow})"


class GraphCapture:
    """Captures functions in CUDA graphs that share their memory: the result of one lives until the next replay."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Replay) -> Replay:
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            function()  # libraries allocate their workspaces at the first call, which a graph cannot
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's watchdog, may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def _sizes(largest: int) -> list[int]:
    """Numbers of tokens that are captured: 1, 2, 4, then multiples of 8; at most 7 rows, or an eighth, are padding."""
    sizes = [size for size in (1, 2, 4) if size < largest]
    size = 8
    while size < largest:
        sizes.append(size)
        size += max(8, size // 8 // 8 * 8)
    return [*sizes, largest]

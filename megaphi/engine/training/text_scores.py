"""Log-probabilities of texts under a model in training, by forward passes on its own ranks: no second copy of weights.

Texts are given as tokens. What a text needs is a row of its tokens; a row that begins another is scored in the other's,
as attention is causal, so that the letters of a choice cost one row. Rows go through the pipeline sorted by length, a
few micro-batches of one length at a time, none with more tokens than a micro-batch of training has. A replica scores
its share of the rows, and one reduction tells every rank all scores. Whatever training depends on is as before:
parameters, gradients, optimizer, random states.

Legend: B rows, S sequence, V this rank's part of the vocabulary, R scored tokens, N texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from numpy.typing import NDArray
from torch import Tensor

from megaphi.data.batch import NO_SAMPLE, Batch
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.objective import LossFunction, NextToken, local
from megaphi.engine.saving.random_states import same_random_states
from megaphi.engine.training.train_step import reading, run_schedule
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.targets import AllLogits
from megaphi.model.forward.to_device import to_device

ROUNDED_TO = 32
"""Lengths of rows are multiples of it, so that few shapes come up."""
ROWS_OF_LOGITS = 256
"""Scored tokens whose logits of the whole vocabulary exist at once, in fp32."""
MICRO_BATCHES_PER_STAGE = 4
"""Micro-batches that go through the pipeline together, for each of its stages."""


class ScoredText(NamedTuple):
    """Tokens of a text, and how many of the last ones are scored: at least one stands before them."""

    tokens: tuple[int, ...]
    scored: int


class TextScore(NamedTuple):
    """The score of a text's last tokens."""

    log_probability: float
    """Sum of their log-probabilities, in nats."""
    is_greedy: bool
    """True if each of them is the most probable token, the one with the lowest id among equals."""


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """Tokens that pass through the model, and where its logits are read."""

    tokens: tuple[int, ...]
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    """(position, token that follows, number of the text)."""


@torch.no_grad()
def score_texts(model: TrainingModel, texts: Sequence[ScoredText]) -> list[TextScore]:
    """Score texts, the same on every rank, none with more than the run's sequence length of tokens before its last one.

    Collective.
    """
    run, world, layout = model.run, model.world, model.world.layout
    sums_N2 = torch.zeros(len(texts), 2, dtype=torch.float64)
    most_tokens = run.batch.micro_batch * run.batch.sequence_length
    planned = passes(
        rows_of(texts),
        # Logits of a pass exist whole, which `loss_chunk_tokens` is there to avoid.
        tokens=min(most_tokens, run.model.loss_chunk_tokens or most_tokens),
        multiple=math.lcm(ROUNDED_TO, 2 * layout.context * layout.tensor),
        replicas=world.replicas,
        most=MICRO_BATCHES_PER_STAGE * layout.pipeline if layout.pipeline > 1 else 1,
        least=layout.least_micro_batches,
    )
    with same_random_states(world), reading(model):
        for number, one in enumerate(planned, start=1):
            world.activity.reach(f"pass {number}")
            scoring = _Scoring(one.rows, run.model.vocabulary)
            reports = run_schedule(model, one.batches(world.replica), scoring, forward_only=True)
            for report in reports if parallel_state.get_tensor_model_parallel_rank() == 0 else ():
                sums_N2.index_add_(0, report["texts"].cpu(), report["sums"].cpu())  # on the CPU the order is fixed
    found_N2 = sums_N2.to(world.device)
    distributed.all_reduce(found_N2)
    found = zip(texts, found_N2.tolist(), strict=True)
    return [TextScore(total, greedy == text.scored) for text, (total, greedy) in found]


def rows_of(texts: Sequence[ScoredText]) -> list[ScoredRow]:
    """The rows that give every text its scores, the longest first. A text's last token is read, and never passes."""
    rows: list[ScoredRow] = []
    for number in sorted(range(len(texts)), key=lambda number: texts[number].tokens[:-1], reverse=True):
        whole, scored = texts[number]
        passing = whole[:-1]
        if not rows or rows[-1].tokens[: len(passing)] != passing:
            rows.append(ScoredRow(passing))
        first = len(whole) - scored
        rows[-1].reads.extend((place - 1, whole[place], number) for place in range(first, len(whole)))
    return sorted(rows, key=lambda row: len(row.tokens), reverse=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPass:
    """One pass through the pipeline: `micro_batches` of every replica, each of `rows_each` rows of `length` tokens."""

    rows: Sequence[ScoredRow]
    length: int
    rows_each: int
    micro_batches: int
    replicas: int

    def batches(self, replica: int) -> list[Batch]:
        """A replica's micro-batches; `sample_numbers_B` are indices of `rows`, and `NO_SAMPLE` of padding."""
        numbers = np.full(self.micro_batches * self.rows_each, NO_SAMPLE)
        mine = np.arange(replica, len(self.rows), self.replicas)
        numbers[: len(mine)] = mine
        return [self._batch(numbers_B) for numbers_B in numbers.reshape(self.micro_batches, self.rows_each)]

    def _batch(self, numbers_B: NDArray[np.int64]) -> Batch:
        tokens_BS = np.zeros((self.rows_each, self.length), dtype=np.int64)
        for tokens_S, number in zip(tokens_BS, numbers_B, strict=True):
            if number != NO_SAMPLE:
                tokens = self.rows[number].tokens
                tokens_S[: len(tokens)] = tokens
        return Batch(
            tokens_BS=tokens_BS,
            labels_BS=tokens_BS,
            loss_mask_BS=np.zeros(tokens_BS.shape, dtype=np.float32),
            document_ids_BS=None,
            sample_numbers_B=numbers_B,
        )


def passes(
    rows: Sequence[ScoredRow], *, tokens: int, multiple: int, replicas: int, most: int, least: int
) -> Iterator[RowPass]:
    """Cut rows, the longest first, into passes.

    Args:
        tokens: most tokens of a micro-batch, but for a single row that is longer.
        multiple: lengths are multiples of it.
        most: most micro-batches of a replica in one pass.
        least: fewest of them, of which the last may be padding.
    """
    first = 0
    while first < len(rows):
        left = len(rows) - first
        length = -(-len(rows[first].tokens) // multiple) * multiple
        rows_each = min(max(1, tokens // length), -(-left // replicas))
        micro_batches = max(least, min(most, -(-left // (rows_each * replicas))))
        part = rows[first : first + rows_each * micro_batches * replicas]
        yield RowPass(rows=part, length=length, rows_each=rows_each, micro_batches=micro_batches, replicas=replicas)
        first += len(part)


class _Scoring(NextToken):
    """The objective that only reads: its report has the scores of the texts that a micro-batch holds."""

    def __init__(self, rows: Sequence[ScoredRow], vocabulary: int) -> None:
        self._rows, self._vocabulary = rows, vocabulary

    def forward(self, batch: Batch, chunk: torch.nn.Module, device: torch.device) -> tuple[Tensor, LossFunction]:
        context = ForwardContext(attention=self.attention(batch, device), targets=AllLogits())
        return chunk(local(batch.tokens_BS, device), context), partial(self._scores, batch)

    def _scores(self, batch: Batch, logits_BSV: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        device = logits_BSV.device
        reads_R4 = to_device(self._reads(batch), device)
        sums = [torch.zeros(0, 2, dtype=torch.float64, device=device)]
        for row_R, place_R, target_R, _ in (part.unbind(1) for part in reads_R4.split(ROWS_OF_LOGITS)):
            whole_RV = gather_from_tensor_model_parallel_region(logits_BSV[row_R, place_R]).float()
            whole_RV = whole_RV[:, : self._vocabulary]
            log_probability_R = whole_RV.log_softmax(-1).gather(1, target_R[:, None]).squeeze(1)
            sums.append(torch.stack((log_probability_R, whole_RV.argmax(-1) == target_R), 1).double())
        report = {"texts": reads_R4[:, 3], "sums": torch.cat(sums)}
        return torch.zeros((), device=device), torch.ones((), dtype=torch.int, device=device), report

    def _reads(self, batch: Batch) -> NDArray[np.int64]:
        """(row, place in it, token that follows, text), int64 [R, 4], of what this context rank holds of each row."""
        length = batch.tokens_BS.shape[1]
        held_S = local(np.arange(length)[None], torch.device("cpu"))[0].numpy()
        place_S = np.full(length, -1)
        place_S[held_S] = np.arange(len(held_S))
        rows = ((row, number) for row, number in enumerate(batch.sample_numbers_B) if number != NO_SAMPLE)
        reads = [
            (row, place_S[position], *others)
            for row, number in rows
            for position, *others in self._rows[number].reads
            if place_S[position] >= 0
        ]
        return np.array(reads, dtype=np.int64).reshape(-1, 4)

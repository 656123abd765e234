"""From scheduled chunks to a forward pass: where each token is stored, what it attends to, whose logits are needed.

Decodes come first, prefill chunks after them, as the scheduler orders them. A draft adds a decode for every guess.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from megaphi.engine.inference.decode_step import DecodeInputs
from megaphi.generation.decoding.scheduler import BlockCopy, ScheduledChunk, SequenceState
from megaphi.model.forward.context import ForwardContext
from megaphi.model.forward.paged_cache import PagedCache, PagedPass, Prefill
from megaphi.model.forward.targets import LogitRows
from megaphi.model.forward.to_device import to_device


def cache_pass(
    chunks: Sequence[ScheduledChunk],
    copies: Sequence[BlockCopy],
    cache: PagedCache,
    *,
    block_size: int,
    device: torch.device,
) -> ForwardContext:
    """Return the context of a pass over the chunks' tokens, with blocks of `block_size` positions."""
    positions_T = [position for chunk in chunks for position in chunk.positions]
    cache_rows_T = [row for chunk in chunks for row in _cache_rows(chunk.sequence, chunk.positions, block_size)]
    decodes = [chunk for chunk in chunks if not chunk.is_prefill]
    lengths = [position + 1 for chunk in decodes for position in chunk.positions]
    attention = PagedPass(
        cache=cache,
        cache_rows_T=to_device(cache_rows_T, device),
        decodes=len(lengths),
        tables=to_device(_tables(decodes), device),
        lengths=to_device(lengths, device, dtype=torch.int32),
        prefill=_prefill(chunks[len(decodes) :], len(lengths), block_size=block_size, device=device),
        copied_rows_2C=to_device(_copied_rows(copies, block_size), device) if copies else None,
    )
    return ForwardContext(
        attention=attention,
        positions_BS=to_device([positions_T], device, dtype=torch.int64),
        targets=LogitRows(to_device(logit_rows(chunks), device, dtype=torch.int64)),
    )


def decode_inputs(chunks: Sequence[ScheduledChunk], *, block_size: int) -> DecodeInputs:
    """The inputs of a pass over decodes only."""
    tokens_T = [token for chunk in chunks for token in chunk.tokens]
    positions_T = [position for chunk in chunks for position in chunk.positions]
    rows_T = [row for chunk in chunks for row in _cache_rows(chunk.sequence, chunk.positions, block_size)]
    lengths_T = [position + 1 for position in positions_T]
    numbers_4T = np.array([tokens_T, positions_T, rows_T, lengths_T], dtype=np.int64)
    return DecodeInputs(numbers_4T=numbers_4T, tables_TM=_tables(chunks))


def _copied_rows(copies: Sequence[BlockCopy], block_size: int) -> list[list[int]]:
    """[source rows, target rows]"""
    pairs = [
        (copy.source * block_size + place, copy.target * block_size + place)
        for copy in copies
        for place in range(copy.positions)
    ]
    return [list(rows) for rows in zip(*pairs, strict=True)]


def _tables(decodes: Sequence[ScheduledChunk]) -> np.ndarray:
    """int32 [decodes and their guesses, M]"""
    width = max((len(chunk.sequence.blocks) for chunk in decodes), default=0)
    tables = np.zeros((len(decodes), width), dtype=np.int32)
    for row, chunk in zip(tables, decodes, strict=True):
        row[: len(chunk.sequence.blocks)] = chunk.sequence.blocks
    return tables.repeat([len(chunk.positions) for chunk in decodes], axis=0)


def _prefill(chunks: Sequence[ScheduledChunk], start: int, *, block_size: int, device: torch.device) -> Prefill | None:
    """The chunks of a pass that begin at `start` in it."""
    if not chunks:
        return None
    seen = [_rows_up_to(chunk.sequence.blocks, chunk.end, block_size) for chunk in chunks]
    return Prefill.of([len(chunk.positions) for chunk in chunks], seen, start=start, device=device)


def _cache_rows(sequence: SequenceState, positions: range, block_size: int) -> list[int]:
    return [sequence.blocks[position // block_size] * block_size + position % block_size for position in positions]


def _rows_up_to(blocks: Sequence[int], end: int, block_size: int) -> np.ndarray:
    """Rows of the cache that hold the first `end` positions of a sequence, int64."""
    rows = np.asarray(blocks, dtype=np.int64)[:, None] * block_size + np.arange(block_size)
    return rows.reshape(-1)[:end]


def logit_rows(chunks: Sequence[ScheduledChunk]) -> list[int]:
    """The tokens of a pass whose logits are needed."""
    rows, offset = [], 0
    for chunk in chunks:
        rows += [offset + position - chunk.start for position in chunk.logit_positions]
        offset += len(chunk.positions)
    return rows

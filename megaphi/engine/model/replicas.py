"""Comparison of the weights of replicas, bit for bit, by one sum of each tensor.

Replicas hold the same weights after every gathering; those that differ have met a fault of memory, of the network, or
of a program. The sum of a tensor's bits as integers changes with any single bit. Ranks of one place in the model (data
parallel and context parallel ones) exchange their sums, 8 bytes a tensor.

Compare between the backward pass and the update: then the weights are those that gave the gradients. A flipped bit
that is not found there is overwritten by the next gathering, after it has entered one gradient; a bit flipped in the
piece of the weights, or of the optimizer's state, that only its owner holds reaches all replicas, and no comparison
finds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as distributed
from megatron.core import parallel_state
from torch import Tensor

from megaphi.engine.model.training_model import TrainingModel
from megaphi.log import host_name
from megaphi.model.initialize import parameter_shares
from megaphi.parallel.exchange import gathered

MOST_NAMED = 3
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def replica_differences(model: TrainingModel) -> list[str]:
    """One sentence for every place of the model whose replicas differ, the same on all ranks. Collective.

    The parameters must be gathered, as they are after a backward pass.
    """
    shares = [share for module in model.modules for share in parameter_shares(module)]
    sums_P = torch.stack([sum_of_bits(share.parameter.detach()) for share in shares])
    group: Any = parallel_state.get_data_parallel_group(with_context_parallel=True)
    sums_RP = [torch.empty_like(sums_P) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(sums_RP, sums_P, group=group)
    differ = torch.stack([(sums != sums_RP[0]).any() for sums in sums_RP]).any().float()
    distributed.all_reduce(differ, op=distributed.ReduceOp.MAX)
    if not differ.item():
        return []
    hosts = gathered(host_name(), str)
    ranks = distributed.get_process_group_ranks(group)
    sentence = described(
        {rank: sums.tolist() for rank, sums in zip(ranks, sums_RP, strict=True)},
        names=[share.name for share in shares],
        hosts=hosts,
    )
    found = gathered(sentence, str | None)
    return sorted({one for one in found if one is not None})


def sum_of_bits(values: Tensor) -> Tensor:
    """The sum modulo 2^64 of a tensor's bytes, read as integers of the widest word that fits."""
    flat = values.reshape(-1)
    total_bytes = flat.numel() * flat.element_size()
    word = next(size for size in _WORDS if total_bytes % size == 0 and flat.data_ptr() % size == 0)
    return flat.view(torch.uint8).view(_WORDS[word]).sum(dtype=torch.int64)


def described(sums: dict[int, list[int]], *, names: Sequence[str], hosts: Sequence[str]) -> str | None:
    """The ranks whose sums are not those of most ranks, and their tensors; None if all are the same."""
    columns = zip(*sums.values(), strict=True)
    wrong = [(name, column) for name, column in zip(names, columns, strict=True) if len(set(column)) > 1]
    if not wrong:
        return None
    named = ", ".join(name for name, _ in wrong[:MOST_NAMED]) + (
        f" and {len(wrong) - MOST_NAMED} other tensors" if len(wrong) > MOST_NAMED else ""
    )
    odd = sorted({rank for _, column in wrong for rank in _odd(dict(zip(sums, column, strict=True)))})
    who = ", ".join(f"rank {rank} on {hosts[rank]}" for rank in odd)
    if len(odd) == len(sums):
        return f"{who} hold different bits of {named}; which of them is right is not known"
    hold = "holds" if len(odd) == 1 else "hold"
    return f"{who} {hold} other bits of {named} than the other {len(sums) - len(odd)} replicas"


def _odd(sums: dict[int, int]) -> list[int]:
    """Ranks outside the majority; all, if there is none."""
    usual, count = Counter(sums.values()).most_common(1)[0]
    return [rank for rank, value in sums.items() if count * 2 <= len(sums) or value != usual]

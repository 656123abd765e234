"""A fingerprint of a model's weights that does not depend on their sharding: one changed bit changes it.

    sum over all weights w and their elements e of  mix(bits(e), mix(name(w), place of e in w))     modulo 2^64, twice

A sum does not depend on which rank adds which part, so every rank hashes its shards, and one reduction gives the number
of the whole model. Not a cryptographic hash: it tells weights apart, it does not protect against forgery.
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as distributed
from torch import Tensor

from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.model.initialize import ParameterShare, parameter_shares

_CHUNK = 1 << 22
_FIRST, _SECOND = -0x61C8864680B583EB, -0x4B47D0C5A1B2E3F7  # odd constants, as signed 64-bit numbers


@torch.no_grad()
def weights_fingerprint(model: TrainingModel) -> str:
    """32 hex digits, equal on every rank and under every layout. Collective."""
    world = model.world
    total_2 = torch.zeros(2, dtype=torch.int64, device=world.device)
    with whole_parameters(model):
        if world.replica == 0 and world.place.context == 0:
            for module in model.modules:
                for share in parameter_shares(module):
                    if share.is_first_copy:
                        total_2 += _sum_of(share)
    distributed.all_reduce(total_2)
    return "".join(f"{value & 0xFFFFFFFFFFFFFFFF:016x}" for value in total_2.tolist())


def _sum_of(share: ParameterShare) -> Tensor:
    values_N = share.parameter.detach().view(-1)[: share.numel]
    bits_N = values_N.view({2: torch.int16, 4: torch.int32}[values_N.element_size()])
    name = int.from_bytes(hashlib.sha256(share.name.encode()).digest()[:8], "little", signed=True)
    total_2 = torch.zeros(2, dtype=torch.int64, device=values_N.device)
    for start in range(0, share.numel, _CHUNK):
        bits = bits_N[start : start + _CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(bits), device=bits.device)
        mixed = _mix(bits + _mix(_place_in_whole(places, share) + name))
        total_2 += torch.stack((mixed.sum(), _mix(mixed + _SECOND).sum()))
    return total_2


def _place_in_whole(places_N: Tensor, share: ParameterShare) -> Tensor:
    """Map positions in the flattened box to positions in the flattened whole weight."""
    whole_N, stride = torch.zeros_like(places_N), 1
    for size, offset, whole in zip(
        reversed(share.shape), reversed(share.offset), reversed(share.whole_shape), strict=True
    ):
        whole_N += (places_N % size + offset) * stride
        places_N = places_N // size
        stride *= whole
    return whole_N


def _mix(values_N: Tensor) -> Tensor:
    """splitmix64's finaliser, with wrap-around."""
    values_N = values_N * _FIRST
    values_N = (values_N ^ ((values_N >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    values_N = (values_N ^ ((values_N >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return values_N ^ ((values_N >> 31) & 0x1FFFFFFFF)

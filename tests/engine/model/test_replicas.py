"""The comparison of replicas: any one bit changes a tensor's sum, and the odd rank is named. Worlds: tests/stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.model.replicas import described, sum_of_bits

HOSTS = ("alpha", "alpha", "beta", "beta")


@given(st.integers(1, 33), st.sampled_from([torch.float32, torch.bfloat16, torch.uint8]), st.data())
def test_a_single_bit_changes_the_sum(length: int, dtype: torch.dtype, data: st.DataObject) -> None:
    values = torch.randn(length).to(dtype)
    before = sum_of_bits(values)
    bits = values.view(torch.uint8).numpy()
    bits[data.draw(st.integers(0, len(bits) - 1))] ^= np.uint8(1 << data.draw(st.integers(0, 7)))
    assert sum_of_bits(values) != before


@pytest.mark.parametrize("length", [1, 2, 3, 4, 6, 8, 1000])
def test_the_sum_is_that_of_whole_words(length: int) -> None:
    values = torch.randn(length, generator=torch.Generator().manual_seed(length))
    word = np.int64 if length % 2 == 0 else np.int32
    expected = values.numpy().view(word).astype(np.int64).sum()  # wraps around
    assert sum_of_bits(values).item() == expected


def test_the_odd_one_is_named_with_host_and_tensors() -> None:
    equal = {0: [1, 2, 3], 2: [1, 2, 3], 3: [1, 2, 3]}
    assert described(equal, names="abc", hosts=HOSTS) is None
    assert described({**equal, 2: [1, 9, 3]}, names="abc", hosts=HOSTS) == (
        "rank 2 on beta holds other bits of b than the other 2 replicas"
    )
    assert described({0: [1], 3: [2]}, names="a", hosts=HOSTS) == (
        "rank 0 on alpha, rank 3 on beta hold different bits of a; which of them is right is not known"
    )
    many = described({0: [0] * 5, 1: [1] * 5, 2: [0] * 5}, names="abcde", hosts=HOSTS)
    assert many == "rank 1 on alpha holds other bits of a, b, c and 2 other tensors than the other 2 replicas"

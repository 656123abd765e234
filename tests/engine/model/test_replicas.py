"""The comparison of replicas: any one bit changes a tensor's sum, and the odd rank is named. Runs: tests/stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaphi.engine.model.replicas import described, sum_of_bits
from megaphi.log import host_name
from megaphi.parallel.layout import ParallelLayout
from tests.engine.model.replica_runs import Flips, differences_of
from tests.gloo_world import run_in_world

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


Found = dict[str, tuple[tuple[list[str], list[str]], ...]]
FIRST, SECOND = "decoder.layers.0.mlp.linear_fc1.weight", "decoder.layers.1.mlp.linear_fc2.weight"
FLIPPED: dict[str, tuple[ParallelLayout, Flips, list[str]]] = {
    "one of four replicas": (
        ParallelLayout(data=4),
        {2: FIRST},
        [f"rank 2 on HERE holds other bits of {FIRST} than the other 3 replicas"],
    ),
    "two of four replicas, each its own tensor": (
        ParallelLayout(data=4),
        {1: SECOND, 3: FIRST},
        [f"rank 1 on HERE, rank 3 on HERE hold other bits of {FIRST}, {SECOND} than the other 2 replicas"],
    ),
    "two against two": (
        ParallelLayout(data=4),
        {0: FIRST, 3: FIRST},
        [
            f"rank 0 on HERE, rank 1 on HERE, rank 2 on HERE, rank 3 on HERE hold different bits of {FIRST}; "
            "which of them is right is not known"
        ],
    ),
    "a context rank of one of two replicas": (
        ParallelLayout(data=2, context=2),
        {1: SECOND},
        [f"rank 1 on HERE holds other bits of {SECOND} than the other 3 replicas"],
    ),
    "one of four context ranks": (
        ParallelLayout(context=4),
        {3: FIRST},
        [f"rank 3 on HERE holds other bits of {FIRST} than the other 3 replicas"],
    ),
    "a context rank of one tensor rank": (
        ParallelLayout(tensor=2, context=2),
        {3: FIRST},
        [f"rank 1 on HERE, rank 3 on HERE hold different bits of {FIRST}; which of them is right is not known"],
    ),
    "a context rank of the second stage": (
        ParallelLayout(pipeline=2, context=2),
        {2: SECOND},
        [f"rank 2 on HERE, rank 3 on HERE hold different bits of {SECOND}; which of them is right is not known"],
    ),
    "replicas of both tensor ranks": (
        ParallelLayout(tensor=2, data=2),
        {2: FIRST, 3: SECOND},
        [
            f"rank 0 on HERE, rank 2 on HERE hold different bits of {FIRST}; which of them is right is not known",
            f"rank 1 on HERE, rank 3 on HERE hold different bits of {SECOND}; which of them is right is not known",
        ],
    ),
}


@pytest.fixture(scope="module")
def found() -> Found:
    """Differences before and after, as each rank has found them in each case."""
    cases = [(layout, flips) for layout, flips, _ in FLIPPED.values()]
    by_rank = run_in_world(differences_of, cases, processes=4)
    return dict(zip(FLIPPED, zip(*by_rank, strict=True), strict=True))


@pytest.mark.parametrize("case", FLIPPED)
def test_a_flipped_bit_is_found_in_its_rank_and_tensor(case: str, found: Found) -> None:
    """By every rank alike, also those of other parts of the model."""
    expected = [sentence.replace("HERE", host_name()) for sentence in FLIPPED[case][2]]
    assert found[case] == (([], expected),) * 4

"""The order of a mixture: each window once per epoch, no token a target twice, sources independent of each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.mixture import MixtureOrder, Source
from megaphi.errors import InputError
from tests.data import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())["mixture"]
PHI4 = {"web": 15.0, "rewrites": 15.0, "synthetic": 40.0, "code": 20.0, "acquired": 10.0}


def order_of(weights, token_counts, **settings):
    sources = [Source(name=name, weight=weight, paths=(name,)) for name, weight in weights.items()]
    settings = {"sequence_length": 16, "seed": 1, **settings}
    return MixtureOrder(sources, token_counts=token_counts, **settings)


def test_golden_places():
    weights = dict(zip(GOLDEN["names"], GOLDEN["weights"], strict=True))
    settings = {name: GOLDEN[name] for name in ("sequence_length", "seed", "split")}
    places = order_of(weights, GOLDEN["token_counts"], **settings).locate(GOLDEN["numbers"])
    found = [places.source_B, places.epoch_B, places.window_B, places.start_token_B]
    assert np.column_stack(found).tolist() == GOLDEN["places"]


@given(
    token_counts=st.lists(st.integers(17, 400), min_size=5, max_size=5),
    seed=st.integers(0, (1 << 64) - 1),
    split=st.sampled_from(["training", "validation"]),
)
@settings(max_examples=25, deadline=None)
def test_every_place_is_what_the_reference_says(token_counts, seed, split):
    order = order_of(PHI4, token_counts, seed=seed, split=split)
    numbers = np.arange(0, 400, 7)
    placements = reference.periodic_blend(list(PHI4.values()), 400)
    places = order.locate(numbers)
    found = np.column_stack([places.source_B, places.epoch_B, places.window_B, places.start_token_B])
    chosen = [placements[number] for number in numbers]
    expected = reference.locate(list(PHI4), token_counts, chosen, sequence_length=16, seed=seed, split=split)
    assert found.tolist() == [list(place) for place in expected]


def test_every_source_is_visited_fully_before_any_of_it_repeats():
    """Tokens as targets: window j of an epoch trains S tokens, and no token twice within the epoch."""
    token_counts = [1_000, 700, 333, 2_048, 97]
    order = order_of(PHI4, token_counts)
    places = order.locate(np.arange(3_000))
    for source, tokens in enumerate(token_counts):
        mine = places.source_B == source
        windows = tokens // 16
        epochs = places.epoch_B[mine]
        assert (np.diff(epochs) >= 0).all(), "an epoch began before the one before it was over"
        for epoch in range(epochs[-1]):
            whole = epochs == epoch
            assert sorted(places.window_B[mine][whole]) == list(range(windows))
            starts = places.start_token_B[mine][whole]
            targets = (starts[:, None] + 1 + np.arange(16)) % tokens
            assert len(np.unique(targets)) == targets.size == windows * 16


def test_epochs_differ_in_order_and_in_grid():
    order = order_of({"web": 1.0}, [16 * 5_000 + 9])
    orders = [order.window_order(0, epoch)(np.arange(5_000)) for epoch in range(3)]
    assert (orders[0] == orders[1]).mean() < 0.01
    assert len({order.phase(0, epoch) for epoch in range(20)}) > 5


def test_the_order_within_a_source_does_not_depend_on_the_others():
    alone = order_of({"code": 1.0}, [5_000]).locate(np.arange(100))
    mixed_order = order_of({"web": 3.0, "code": 7.0}, [9_999, 5_000])
    mixed = mixed_order.locate(np.arange(200))
    starts = mixed.start_token_B[mixed.source_B == 1][:100]
    assert np.array_equal(starts, alone.start_token_B)


def test_splits_and_seeds_are_unrelated():
    starts = [
        order_of({"web": 1.0}, [1_000_000], **settings).locate(np.arange(200)).start_token_B.tolist()
        for settings in ({}, {"seed": 2}, {"split": "validation"})
    ]
    assert len(set(starts[0]) & set(starts[1])) < 5
    assert len(set(starts[0]) & set(starts[2])) < 5


def test_counts_and_epochs():
    order = order_of(PHI4, [1_600] * 5)
    assert order.counts(1_000) == {"web": 150, "rewrites": 150, "synthetic": 400, "code": 200, "acquired": 100}
    assert order.epochs(1_000)["synthetic"] == 4.0


@pytest.mark.parametrize(
    ("weights", "token_counts", "settings", "message"),
    [
        ({}, [], {}, "no sources"),
        ({"web": 0.0}, [100], {}, "mixture.sources.web.weight=0.0"),
        ({"web": 1.0}, [16], {}, "needs 17"),
        ({"web": 1.0}, [100], {"seed": -1}, "seed=-1"),
        ({"web": 1.0}, [100], {"sequence_length": 0}, "sequence length 0"),
    ],
)
def test_refuses_what_cannot_be_meant(weights, token_counts, settings, message):
    with pytest.raises(InputError, match=message):
        order_of(weights, token_counts, **settings)


def test_refuses_two_sources_of_one_name():
    twice = [Source(name="web", weight=1.0, paths=("a",))] * 2
    with pytest.raises(InputError, match="two sources of the mixture are named 'web'"):
        MixtureOrder(twice, token_counts=[100, 100], sequence_length=16, seed=0)

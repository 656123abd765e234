"""The order of a mixture: each sample once per epoch, no token a target twice, sources independent of each other.

Places are compared with the plain reference and, over random plans, with the NumPy form; that a stage goes on where
another stopped is checked by brute force, token by token.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.compiled.module import compiled
from megaphi.data.order.mixture import Source, check_sources
from megaphi.data.order.sample_order import MixtureOrder
from megaphi.errors import InputError
from tests.data.order import numpy_order
from tests.data.order import order_reference as reference

GOLDEN = json.loads(reference.GOLDEN.read_text())["mixture"]
STAGE = json.loads(reference.GOLDEN.read_text())["stage"]
PHI4 = {"web": 15.0, "rewrites": 15.0, "synthetic": 40.0, "code": 20.0, "acquired": 10.0}


def order_of(weights, token_counts, **settings):
    settings = {"sequence_length": 16, "seed": 1, **settings}
    return MixtureOrder(list(weights), list(weights.values()), token_counts=token_counts, **settings)


def rows_of(places):
    return np.column_stack([places.source_B, places.epoch_B, places.window_B, places.start_token_B]).tolist()


def test_golden_places():
    weights = dict(zip(GOLDEN["names"], GOLDEN["weights"], strict=True))
    settings = {name: GOLDEN[name] for name in ("sequence_length", "seed", "split")}
    order = order_of(weights, GOLDEN["token_counts"], **settings)
    assert rows_of(order.locate(GOLDEN["numbers"])) == GOLDEN["places"]
    first_samples, first_epochs = zip(*STAGE["beginnings"], strict=True)
    stage = {"block_tokens": STAGE["blocks"], "first_samples": first_samples, "first_epochs": first_epochs}
    order = order_of(weights, GOLDEN["token_counts"], **settings, **stage)
    assert rows_of(order.locate(GOLDEN["numbers"])) == STAGE["places"]


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
    chosen = [placements[number] for number in numbers]
    expected = reference.locate(list(PHI4), token_counts, chosen, sequence_length=16, seed=seed, split=split)
    assert rows_of(places) == [list(place) for place in expected]


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


@st.composite
def plans(draw, *, largest_tokens):
    """A source of random size, block, beginning and weight, three times."""
    length = draw(st.integers(1, 40))
    parts = draw(st.lists(st.integers(1, 8), min_size=3, max_size=3))
    blocks = [length * count for count in parts]
    return {
        "sequence_length": length,
        "block_tokens": blocks,
        "token_counts": [draw(st.integers(block + 1, largest_tokens)) for block in blocks],
        "first_samples": draw(st.lists(st.integers(0, 1_000), min_size=3, max_size=3)),
        "first_epochs": draw(st.lists(st.integers(0, 1 << 48), min_size=3, max_size=3)),
        "seed": draw(st.integers(0, (1 << 64) - 1)),
    }, draw(st.lists(st.integers(1, 20).map(float), min_size=3, max_size=3))


@given(plan=plans(largest_tokens=1_000) | plans(largest_tokens=1 << 62), seed=st.integers(0, 1_000))
@settings(max_examples=60, deadline=None)
def test_places_in_any_plan_are_what_numpy_computes(plan, seed):
    """Numbers in any order, with repeats, near and far."""
    sizes, weights = plan
    order = MixtureOrder(["a", "b", "c"], weights, **sizes)
    random = np.random.default_rng(seed)
    numbers = np.concatenate([random.integers(0, 300, 100), random.integers(0, 1 << 60, 20), [5, 5]])
    source_B, rank_B = numpy_order.table_blend(order.blend.shares, order.blend.period, numbers)
    expected = numpy_order.locate(source_B, rank_B, names=order.names, **sizes)
    assert rows_of(order.locate(numbers)) == expected.tolist()


@given(plan=plans(largest_tokens=400))
@settings(max_examples=40, deadline=None)
def test_every_part_of_every_block_comes_once_before_any_comes_again(plan):
    sizes, weights = plan
    order = MixtureOrder(["a", "b", "c"], weights, **sizes)
    length = order.sequence_length
    places = order.locate(np.arange(2_000))
    for source, tokens in enumerate(order.token_counts):
        mine = places.source_B == source
        epochs, windows = places.epoch_B[mine], places.window_B[mine]
        per_epoch, taken = order.windows[source], order.first_samples[source]
        assert per_epoch == tokens // order.block_tokens[source] * (order.block_tokens[source] // length)
        assert np.array_equal(epochs, order.first_epochs[source] + (taken + np.arange(len(epochs))) // per_epoch)
        for epoch in np.unique(epochs):
            seen = windows[epochs == epoch]
            assert len(np.unique(seen)) == len(seen)
            assert set(seen.tolist()) <= set(range(per_epoch))
            targets = (places.start_token_B[mine][epochs == epoch][:, None] + 1 + np.arange(length)) % tokens
            assert len(np.unique(targets)) == targets.size
        parts = order.block_tokens[source] // length
        units = (taken + np.arange(len(epochs))) % per_epoch
        assert np.array_equal(windows % parts, units % parts), "a block is read in order, part after part"


@given(
    short=st.integers(1, 12),
    factor=st.integers(1, 4),
    blocks=st.integers(1, 30),
    spare=st.integers(1, 40),
    taken=st.integers(0, 200),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=60, deadline=None)
def test_a_stage_with_longer_samples_goes_on_where_one_with_shorter_stopped(short, factor, blocks, spare, taken, seed):
    """Both read the same blocks: what the second adds to an epoch is what the first left, less a sample cut short."""
    block = short * factor * 2
    shared = {"token_counts": [block * blocks + spare], "block_tokens": [block], "seed": seed}
    before = order_of({"web": 1.0}, sequence_length=short, **shared)
    epoch, samples = divmod(taken, before.windows[0])
    beginning = {"first_samples": [-(-samples // factor)], "first_epochs": [epoch]}
    after = order_of({"web": 1.0}, sequence_length=short * factor, **shared, **beginning)
    targets = []
    for order, first, count in ((before, taken - samples, samples), (after, 0, after.windows[0])):
        places = order.locate(np.arange(first, first + count))
        starts = places.start_token_B[places.epoch_B == epoch]
        targets.append(((starts[:, None] + 1 + np.arange(order.sequence_length)) % shared["token_counts"][0]).ravel())
    seen = np.concatenate(targets)
    assert len(np.unique(seen)) == len(seen)
    skipped = -samples % factor * short
    assert len(seen) == before.windows[0] * short - skipped


def test_epochs_differ_in_order_and_in_grid():
    order = order_of({"web": 1.0}, [16 * 5_000 + 9])
    places = order.locate(np.arange(100_000))
    windows, starts = places.window_B.reshape(20, 5_000), places.start_token_B.reshape(20, 5_000)
    assert (windows[0] == windows[1]).mean() < 0.01
    assert len(np.unique(starts[windows == 0])) > 5


def test_numbers_in_any_order_from_any_thread_are_the_same_places():
    """Small and large sources, hundreds of epochs in one call; four threads share the order."""
    order = order_of(PHI4, [17, 300, 16 * 5_000, 10**9, 65_537])
    places = np.array(rows_of(order.locate(np.arange(20_000))))
    numbers = np.random.default_rng(0).integers(0, 20_000, (16, 5_760))
    with ThreadPoolExecutor(4) as pool:
        for chosen, found in zip(numbers, pool.map(order.locate, numbers), strict=True):
            assert np.array_equal(rows_of(found), places[chosen])


def test_an_empty_batch_has_no_places():
    assert rows_of(order_of(PHI4, [100] * 5).locate([])) == []


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
        ({"": 1.0}, [100], {}, "source 0 of the mixture .* has no name"),
        ({"web": 0.0}, [100], {}, "weight 0 of the mixture is 0.0"),
        ({"web": 1.0}, [16], {}, "sample of sequence length 16 needs 17"),
        ({"web": 1.0}, [32], {"block_tokens": [32]}, "block of 32 tokens needs 33"),
        ({"web": 1.0}, [(1 << 62) + 1], {}, "2\\^62 is the most"),
        ({"web": 1.0}, [100], {"block_tokens": [40]}, "multiple of the sequence length 16"),
        ({"web": 1.0}, [100], {"block_tokens": [0]}, "multiple of the sequence length 16"),
        ({"web": 1.0}, [1 << 40], {"block_tokens": [1 << 32]}, "below 2\\^32"),
        ({"web": 1.0}, [100], {"first_samples": [-1]}, "cannot begin at sample -1 of epoch 0"),
        ({"web": 1.0}, [100], {"first_epochs": [1 << 49]}, "cannot begin at sample 0 of epoch"),
        ({"web": 1.0}, [100], {"seed": -1}, "seed=-1"),
        ({"web": 1.0}, [100], {"sequence_length": 0}, "sequence length 0"),
    ],
)
def test_refuses_what_cannot_be_meant(weights, token_counts, settings, message):
    with pytest.raises(InputError, match=message):
        order_of(weights, token_counts, **settings)


def test_refuses_two_sources_of_one_name():
    with pytest.raises(InputError, match="two sources of the mixture are named 'web'"):
        MixtureOrder(["web", "web"], [1.0, 1.0], token_counts=[100, 100], sequence_length=16, seed=0)


def test_refuses_sources_with_their_field():
    with pytest.raises(InputError, match=r"task.mixture.sources.web.weight=0.0: must be above 0"):
        check_sources([Source(name="web", weight=0.0, paths=("a",))])


def test_refuses_numbers_that_are_none():
    with pytest.raises(InputError, match="sample number -2 is outside this blend"):
        order_of(PHI4, [100] * 5).locate([0, -2])
    with pytest.raises(TypeError, match="whole numbers"):
        order_of(PHI4, [100] * 5).locate([0.0])


@pytest.mark.parametrize("grids", [[], [(0, 100, 10, 0, 0)], [(0, 100, 16, -1, 0)], [(0, 8, 16, 0, 0)]])
def test_the_compiled_order_trusts_nobody(grids):
    with pytest.raises(ValueError, match=r"as many grids|out of range"):
        compiled().Order(order_of({"web": 1.0}, [100]).blend.compiled, grids, 16)

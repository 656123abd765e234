"""The ledger: there and back through JSON, cursors that count passes, and what it says about data that changed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.config import from_plain
from megaphi.data.order.ledger import (
    LEDGER_VERSION,
    UNREAD,
    Cursor,
    DatasetRecord,
    Ledger,
    Origin,
    SegmentRecord,
    SourceRecord,
    changed_data,
    read_ledger,
)
from megaphi.errors import InputError

COUNTS = st.integers(0, 1 << 60)
CURSORS = st.builds(
    Cursor,
    block_tokens=st.integers(1, 1 << 20),
    blocks=st.integers(1, 1 << 40),
    first_epoch=COUNTS,
    tokens=COUNTS,
    drawn=COUNTS,
)
DATASETS = st.builds(DatasetRecord, name=st.text(), tokens=COUNTS, documents=COUNTS, fingerprint=st.text())
LEDGERS = st.builds(
    Ledger,
    order=st.sampled_from(["keyed", "megatron"]),
    order_version=st.integers(1, 9),
    seed=st.integers(0, (1 << 64) - 1),
    origin=st.builds(Origin, step=COUNTS, sample=COUNTS, tokens=COUNTS),
    segments=st.lists(
        st.builds(
            SegmentRecord,
            first_sample=COUNTS,
            sequence_length=st.integers(1, 1 << 20),
            sources=st.lists(st.text()).map(tuple),
            shares=st.lists(st.text()).map(tuple),
            horizon=st.none() | COUNTS,
        )
    ).map(tuple),
    sources=st.lists(
        st.builds(SourceRecord, name=st.text(), datasets=st.lists(DATASETS).map(tuple), at_origin=CURSORS, now=CURSORS)
    ).map(tuple),
)


@given(LEDGERS)
def test_there_and_back_through_json(ledger):
    state = json.loads(json.dumps({"ledger": ledger.to_json()}))
    assert read_ledger(state, where="here") == ledger
    assert from_plain(Ledger, state["ledger"]) == ledger


@given(CURSORS)
def test_the_next_epoch_is_the_first_that_nobody_has_seen(cursor):
    per_epoch = cursor.block_tokens * cursor.blocks
    begun = (cursor.tokens + per_epoch - 1) // per_epoch
    assert cursor.next_epoch == cursor.first_epoch + begun
    again = cursor.restarted()
    assert (again.first_epoch, again.tokens, again.drawn) == (cursor.next_epoch, 0, cursor.drawn)
    assert again.next_epoch == again.first_epoch, "a source that is cut again has not begun an epoch yet"


def test_which_samples_fit_into_the_present_blocks():
    cursor = Cursor(block_tokens=64, blocks=10, first_epoch=0, tokens=100, drawn=100)
    assert cursor.fits(sequence_length=16, token_count=640)
    assert cursor.fits(sequence_length=64, token_count=703)
    assert not cursor.fits(sequence_length=48, token_count=640), "not a divisor of the block"
    assert not cursor.fits(sequence_length=64, token_count=704), "another number of blocks"
    assert not UNREAD.fits(sequence_length=1, token_count=640)


A = DatasetRecord(name="data/a", tokens=1_000, documents=3, fingerprint="a" * 64)
B = DatasetRecord(name="data/b", tokens=2_000, documents=3, fingerprint="b" * 64)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([A, B], None),
        ([replace(A, name="moved/a"), B], None),
        ([B, A], "its datasets are in another order: data/b, data/a"),
        ([A], "data/b is missing (2,000 tokens)"),
        ([A, B, replace(A, name="data/c", fingerprint="c" * 64)], "data/c is new (1,000 tokens)"),
        ([A, replace(B, tokens=2_001, fingerprint="d" * 64)], "data/b had 2,000 tokens and has 2,001"),
        (
            [replace(A, fingerprint="e" * 64), B],
            "data/a has other contents (fingerprint aaaaaaaaaaaa, now eeeeeeeeeeee)",
        ),
        ([A, A, B], "a dataset occurs another number of times"),
    ],
)
def test_what_changed_is_named(now, message):
    assert changed_data([A, B], now) == message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "runs/a has no data ledger .* start.initial_checkpoint=runs/a"),
        ({"ledger": {"version": LEDGER_VERSION + 1}}, f"of version {LEDGER_VERSION + 1}; this program reads"),
        ({"ledger": []}, "of version None"),
        ({"ledger": {"version": LEDGER_VERSION, "sauces": []}}, "runs/a: ledger.sauces"),
    ],
)
def test_a_ledger_that_cannot_be_read(state, message):
    with pytest.raises(InputError, match=message):
        read_ledger(state, where="runs/a")

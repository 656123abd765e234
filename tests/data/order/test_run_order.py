"""A run of many stages, by brute force: no token a target twice in an epoch, none left out but what the rules allow.

The oracle keeps a set of the tokens that every source has trained in its present epoch. It knows nothing of keys: it
only looks at which source, epoch and first token each sample has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.order.ledger import Origin
from megaphi.data.order.mixture import Mixture, Share, Source, Stage
from megaphi.data.order.run_order import RunOrder, SourceTokens
from megaphi.data.order.sample_order import MixtureOrder
from megaphi.data.order.schedule import lay_out_stages, single_stage
from megaphi.errors import InputError

NAMES = ("web", "code", "books")
TOKENS = {"web": 1_003, "code": 517, "books": 260}
SIZES = [SourceTokens(name, tokens) for name, tokens in TOKENS.items()]


def mixture_of(*stages):
    return Mixture(sources=tuple(Source(name=name, weight=1.0, paths=(name,)) for name in NAMES), stages=tuple(stages))


@st.composite
def plans(draw, *, lengths=(16,)):
    """Two to five stages over some of the sources, each with weights, a batch and a sequence length of its own."""
    stages = []
    for number in range(draw(st.integers(2, 5))):
        members = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
        weights = st.sampled_from([1.0, 2.0, 0.3, 7.77, 0.1234567])
        batch, length = draw(st.integers(1, 9)), draw(st.sampled_from(lengths))
        stages.append(
            Stage(
                name=f"stage {number}",
                tokens=batch * length * draw(st.integers(1, 30)),
                shares=tuple(Share(name=name, weight=draw(weights)) for name in members),
                global_batch=batch,
                sequence_length=length,
            )
        )
    return tuple(stages)


def steps_of(stages):
    return sum(stage.tokens // (stage.global_batch * stage.sequence_length) for stage in stages)


def order_of(stages, **fields):
    spans = lay_out_stages(mixture_of(*stages), steps=steps_of(stages), sequence_length=16, global_batch=1)
    return RunOrder(spans, SIZES, seed=5, **fields)


def walk(order, samples, *, start=0):
    """(source, epoch, first token, sequence length) of every sample, one stage's samples at a time."""
    places = []
    for segment in order.segments:
        first, end = max(start, segment.span.first_sample), min(samples, segment.span.end_sample)
        if first < end:
            found, length = order.locate(np.arange(first, end))
            rows = zip(*(part.tolist() for part in (found.source_B, found.epoch_B, found.start_token_B)), strict=True)
            places += [(source, epoch, token, length) for source, epoch, token in rows]
    return places


def targets_of(place, tokens):
    _, _, start, length = place
    return [(start + 1 + offset) % tokens for offset in range(length)]


def check_coverage(places, *, allowed_gap):
    """Per source: epochs follow one another, hold no token twice, and leave out no more than they may."""
    seen = defaultdict(set)
    current = {}
    for place in places:
        source, epoch, _, _ = place
        tokens = TOKENS[NAMES[source]]
        if source in current and epoch != current[source]:
            assert epoch == current[source] + 1, "an epoch was left out, or one came back"
            missing = tokens - len(seen[source])
            assert missing < allowed_gap, (
                f"{missing} tokens of {NAMES[source]} were left out of epoch {current[source]}"
            )
            seen[source] = set()
        current[source] = epoch
        targets = targets_of(place, tokens)
        assert seen[source].isdisjoint(targets), f"{NAMES[source]} repeats within epoch {epoch}"
        seen[source].update(targets)


@given(plans())
@settings(max_examples=150, deadline=None)
def test_stages_of_one_length_repeat_nothing_and_skip_nothing(stages):
    order = order_of(stages)
    check_coverage(walk(order, order.segments[-1].span.end_sample), allowed_gap=16)


@given(plans(lengths=(8, 16, 32)))
@settings(max_examples=150, deadline=None)
def test_a_change_of_length_skips_less_than_a_sample(stages):
    """Beside the end of an epoch, shorter than a block of 32, each lengthening may leave out less than one sample."""
    lengths = [stage.sequence_length for stage in stages]
    lengthenings = sum(after > before for before, after in zip([8, *lengths], lengths, strict=False))
    order = order_of(stages)
    check_coverage(walk(order, order.segments[-1].span.end_sample), allowed_gap=32 + 32 * lengthenings)


def edited(stages, other, stop):
    """The samples of a run that follows `stages` up to step `stop`, and `other` from there on."""
    order = order_of(stages)
    position = order.position_at(stop)
    spans = lay_out_stages(mixture_of(*other), steps=steps_of(other), sequence_length=16, global_batch=1)
    shifted = [replace(span, first_step=span.first_step + stop, end_step=span.end_step + stop) for span in spans]
    after = RunOrder(shifted, SIZES, seed=5, origin=position, cursors=order.cursors(position.sample))
    assert after.position_at(stop) == position
    return walk(order, position.sample) + walk(after, after.segments[-1].span.end_sample, start=position.sample)


@given(plans(), plans(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_plan_edited_at_any_step_repeats_nothing_and_skips_nothing(stages, other, data):
    stop = data.draw(st.integers(0, steps_of(stages)))
    check_coverage(edited(stages, other, stop), allowed_gap=16)


@given(plans(lengths=(8,)), plans(lengths=(8, 16)), st.data())
@settings(max_examples=100, deadline=None)
def test_a_length_that_was_not_planned_begins_an_epoch_of_its_own(stages, other, data):
    """The rest of the epoch is dropped, but nothing is repeated within one."""
    stop = data.draw(st.integers(0, steps_of(stages)))
    check_coverage(edited(stages, other, stop), allowed_gap=max(TOKENS.values()) + 1)


def test_a_run_without_stages_is_the_mixture_order():
    """The order that runs of one stage have always had: it is a promise."""
    sources = [Source(name=name, weight=weight, paths=(name,)) for name, weight in zip(NAMES, (5, 3, 2), strict=True)]
    alone = MixtureOrder(NAMES, (5.0, 3.0, 2.0), token_counts=list(TOKENS.values()), sequence_length=16, seed=5).locate(
        np.arange(500)
    )
    places, length = RunOrder([single_stage(sources, sequence_length=16)], SIZES, seed=5).locate(np.arange(500))
    assert length == 16
    for name, expected_B in vars(alone).items():
        assert (getattr(places, name) == expected_B).all()


def test_batches_do_not_mix_sequence_lengths():
    short = Stage(name="short", tokens=32, sequence_length=16)
    order = order_of(
        (replace(short, global_batch=1), Stage(name="long", tokens=64, sequence_length=32, global_batch=1))
    )
    with pytest.raises(ValueError, match="several sequence lengths \\[16, 32\\]"):
        order.locate([0, 3])


def test_what_was_before_the_origin_is_not_asked_for():
    order = RunOrder(
        [single_stage(mixture_of().sources, sequence_length=16)], SIZES, seed=5, origin=Origin(step=9, sample=9)
    )
    with pytest.raises(ValueError, match="sample 8 lies before sample 9"):
        order.locate([8])


def test_lengths_without_a_small_common_multiple_are_refused():
    odd = [
        Stage(name=str(length), tokens=1, sequence_length=length, global_batch=1) for length in (4_095, 4_096, 4_097)
    ]
    with pytest.raises(InputError, match="source 'web' is read with sequence lengths 4095, 4096, 4097"):
        RunOrder(
            lay_out_stages(mixture_of(*odd), steps=3, sequence_length=16, global_batch=1),
            [SourceTokens(name, 10**9) for name in NAMES],
            seed=5,
        )


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [Stage(name="a", tokens=160), Stage(name="b", tokens=16)],
            "last 11 steps, but training.steps=10: set training.steps=11",
        ),
        ([Stage(name="a"), Stage(name="b")], "task.mixture.stages.a.tokens is open"),
        ([Stage(name="a", tokens=160), Stage(name="b")], "no step is left for stage 'b'"),
        ([Stage(name="a", shares=(Share(name="wep", weight=1.0),))], "names 'wep', which is no source.*web"),
        ([Stage(name="a", shares=(Share(name="web", weight=1.0),) * 2)], "names a source twice"),
    ],
)
def test_stages_that_cannot_be_meant(stages, message):
    with pytest.raises(InputError, match=message):
        lay_out_stages(mixture_of(*stages), steps=10, sequence_length=16, global_batch=1)


def test_stages_are_laid_out_in_whole_steps():
    stages = [Stage(name="a", tokens=33, global_batch=2), Stage(name="b", sequence_length=32)]
    first, second = lay_out_stages(mixture_of(*stages), steps=5, sequence_length=16, global_batch=1, micro_batch=1)
    assert (first.first_step, first.end_step, first.samples, first.tokens) == (0, 2, 4, 64)
    assert (second.first_step, second.end_step, second.first_sample, second.samples) == (2, 5, 4, 3)

"""The plan of a run: grouping into shards and cutting into stages, by their properties; fingerprints."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.pipeline import meaning
from megaphi.curation.pipeline.plan import cut_into_stages, grouped, make_plan
from megaphi.curation.step import Portion
from tests.curation.pipeline.my_steps import FirstOnly, TooShort, recipe

sizes = st.lists(st.integers(0, 50), max_size=40)


def portions(of):
    return [Portion(name=str(number), size_bytes=size, fingerprint="f") for number, size in enumerate(of)]


@given(sizes, st.integers(1, 120))
def test_every_portion_is_in_one_shard_in_order(of, shard_bytes):
    shards = list(grouped(portions(of), shard_bytes=shard_bytes))
    assert [portion for shard in shards for portion in shard] == portions(of)
    held = [sum(portion.size_bytes for portion in shard) for shard in shards]
    assert all(size >= shard_bytes for size in held[:-1])
    assert all(size - shard[-1].size_bytes < shard_bytes for size, shard in zip(held, shards, strict=True))
    assert all(shards)


@given(sizes, sizes, st.integers(1, 120))
def test_what_is_added_behind_changes_the_last_shard_only(of, more, shard_bytes):
    before = list(grouped(portions(of), shard_bytes=shard_bytes))
    after = list(grouped(portions(of + more), shard_bytes=shard_bytes))
    assert after[: max(0, len(before) - 1)] == before[:-1]


@given(st.lists(st.sampled_from("sj"), max_size=12), st.sets(st.integers(0, 11)))
def test_every_step_is_in_its_stage(kinds, kept):
    steps = tuple(TooShort() if kind == "s" else FirstOnly() for kind in kinds)
    kept = {place for place in kept if place < len(steps)}
    stages = cut_into_stages(steps, keep_after=sorted(kept))
    assert [place for stage in stages for place in stage.places] == list(range(len(steps)))
    assert [stage.gathers for stage in stages if stage.gathers is not None] == [
        place for place, kind in enumerate(kinds) if kind == "j"
    ]
    for one, two in pairwise(stages):
        assert two.decided == one.gathers
        assert one.gathers is not None or one.places[-1] in kept
    assert [stage.is_last for stage in stages] == [*[False] * (len(stages) - 1), True]


def outputs(curation):
    return [[job.output.name for job in stage.jobs] for stage in make_plan(curation).stages]


def test_a_fingerprint_changes_from_the_changed_step_on(source):
    before = outputs(recipe())
    steps = recipe().steps
    last = outputs(replace(recipe(), steps=(*steps[:3], TooShort(minimum_words=9))))
    assert last[0] == before[0]
    assert not set(last[1]) & set(before[1])
    first = outputs(replace(recipe(), steps=(TooShort(minimum_words=9), *steps[1:])))
    assert not set(first[0]) & set(before[0])
    assert not set(first[1]) & set(before[1])


def test_a_change_in_one_shard_is_one_in_all_behind_a_joint_step(source):
    before = outputs(recipe())
    content = source.read_text().splitlines()
    content[-1] = content[-1].replace("a", "b", 1).replace("c", "a", 1)
    source.write_text("\n".join(content) + "\n")
    after = outputs(recipe())
    # a file of this size is known by its hash, so that all of its portions change
    assert not set(before[0]) & set(after[0])
    assert not set(before[1]) & set(after[1])


def test_a_version_and_the_source_of_an_own_step_count(source, monkeypatch):
    before = outputs(recipe())
    with monkeypatch.context() as patch:
        patch.setattr(TooShort, "VERSION", 2)
        assert not set(outputs(recipe())[0]) & set(before[0])
    assert outputs(recipe()) == before
    monkeypatch.setattr(meaning, "digest_of", lambda path: "edited")
    assert not set(outputs(recipe())[0]) & set(before[0])


def test_where_the_input_lies_does_not_count_twice(source):
    """Paths are said by the portions; to name a file twice, or its folder, changes nothing."""
    twice = replace(recipe(), read=replace(recipe().read, paths=(str(source), str(source))))
    assert outputs(twice) == outputs(recipe())

"""The plan of a run: grouping into shards and cutting into stages, by their properties; fingerprints."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.curation.extract.by_model.extract_by_model import ExtractByModel
from megaphi.curation.filter.quality.label_pages import LabelPages
from megaphi.curation.pipeline import meaning
from megaphi.curation.pipeline.plan import cut_into_stages, grouped, make_plan
from megaphi.curation.recipe import override_curation
from megaphi.curation.step import ModelName, Portion
from megaphi.curation.synthesize.steps.select_seeds import SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize
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


@pytest.mark.parametrize(
    ("fields", "kept_stages"),
    [
        (["samples=3", "seed=1", "rejected_characters=5"], 2),
        (["write.compress=false"], 1),
        (["read.id_key=name"], 0),
        (["shard_bytes=1000"], 0),
        (["keep_after=too_short"], 0),
        (["keep_after=too_short_2"], 2),
    ],
)
def test_a_setting_makes_again_what_the_documentation_says(source, fields, kept_stages):
    before, after = outputs(recipe()), outputs(override_curation(recipe(), fields))
    kept = [set(old) & set(new) for old, new in zip(before, after, strict=False)]
    assert [len(names) for names in kept][:2] == [len(names) for names in before[:kept_stages]] + [0] * (
        2 - kept_stages
    )


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


def test_a_model_counts_with_its_content_and_a_server_with_its_name(source, tmp_path):
    def outputs_with(sampler: str) -> list[str]:
        return outputs(replace(recipe(), steps=(LabelPages(sampler=sampler),)))[0]

    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(5_000))
    before = outputs_with(str(weights.parent)), outputs_with(str(weights))
    assert before == (outputs_with(str(weights.parent)), outputs_with(str(weights)))
    weights.write_bytes(bytes(4_999) + b"1")
    after = outputs_with(str(weights.parent)), outputs_with(str(weights))
    assert not set(before[0]) & set(after[0])
    assert not set(before[1]) & set(after[1])
    server = "http://localhost:1/v1=phi-4"
    assert outputs_with(server) == outputs_with(server) != outputs_with(server + "-mini")


@pytest.mark.parametrize("step", [ExtractByModel, LabelPages, SelectSeeds, Synthesize])
def test_every_step_of_ours_says_which_fields_name_models(step):
    """A field that is a plain text would be known by its name only."""
    names = [name for name, hint in get_type_hints(step, include_extras=True).items() if name in ("sampler", "judge")]
    assert names
    assert all(get_type_hints(step, include_extras=True)[name] == ModelName for name in names)


def test_where_the_input_lies_does_not_count_twice(source):
    """Paths are said by the portions; to name a file twice, or its folder, changes nothing."""
    twice = replace(recipe(), read=replace(recipe().read, paths=(str(source), str(source))))
    assert outputs(twice) == outputs(recipe())

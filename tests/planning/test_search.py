"""The search for a layout: against pricing everything, against the rules of a real run, and its balanced splits."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.batch import BatchShape
from megaphi.engine.run_config import RunConfig, check
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.memory import rank_memory
from megaphi.planning.search.buffers import buffer_bytes
from megaphi.planning.search.pricing import Pricing
from megaphi.planning.search.search import MEMORY, Found, search
from megaphi.planning.search.space import (
    MICRO_BATCHES,
    PlanChoice,
    PlanQuestion,
    Refused,
    balanced,
    choices_of,
    size_of,
)
from megaphi.planning.step.device import A100, H100
from megaphi.planning.step.step_time import step_time
from megaphi.recipes import load_recipe
from megaphi.recipes.phi4_14b import PRETRAINING_LAYOUT
from tests.engine.layout_runs import TINY, tiny_run

MODEL = dataclasses.replace(TINY, layers=6, hidden=96, feed_forward=256, heads=12, key_value_groups=6, vocabulary=512)


def question(*, devices: int = 8, memory_bytes: float = 1e12, **fields) -> PlanQuestion:
    batch = BatchShape(**{"sequence_length": 64, "global_batch": 24, **fields.pop("batch", {})})
    run = tiny_run(layout=ParallelLayout(), model=fields.pop("model", MODEL), batch=batch)
    fixed = fields.pop("fixed", frozenset())
    return PlanQuestion(
        run=dataclasses.replace(run, **fields), devices=devices, device=H100, memory_bytes=memory_bytes, fixed=fixed
    )


def passed(asked: PlanQuestion, pricing: Pricing) -> list[PlanChoice]:
    found = choices_of(asked, head_layers=pricing.head_layers)
    return [choice for choice in found if not isinstance(choice, Refused)]


def by_pricing_everything(asked: PlanQuestion, *, top: int) -> list[tuple[float, int]]:
    """(seconds, bytes) of the best, by `step_time` and `rank_memory` themselves."""
    prices = []
    for choice in passed(asked, Pricing(asked)):
        run, step = choice.of(asked.run), Pricing(asked).step(choice)
        stages = rank_memory(run, [step.parameters_of_stage(stage) for stage in range(choice.layout.pipeline)])
        size = max(stage.total + buffer_bytes(choice.layout, stage.activations) for stage in stages)
        if size <= asked.memory_bytes:
            prices.append((step_time(step, asked.device).seconds, size))
    return sorted(prices)[:top]


@pytest.mark.parametrize("memory_bytes", [1e12, 1.6e9])
def test_the_search_finds_what_pricing_everything_finds(memory_bytes: float) -> None:
    asked = question(memory_bytes=memory_bytes, batch={"global_batch": 16})
    found = search(asked, top=12)
    wanted = by_pricing_everything(asked, top=12)
    assert [plan.time.seconds for plan in found.plans] == pytest.approx([seconds for seconds, _ in wanted])
    for plan in found.plans:
        assert plan.memory[plan.largest].total <= memory_bytes
    assert (found.refused[MEMORY] > 0) == (memory_bytes < 1e12)


def test_bounds_are_bounds_and_prices_are_the_models() -> None:
    asked = question()
    pricing = Pricing(asked)
    for choice in passed(asked, pricing)[::17]:
        seconds = pricing.seconds(choice)
        assert pricing.bound(choice) <= seconds * (1 + 1e-12)
        assert seconds == pytest.approx(step_time(pricing.step(choice), H100).seconds)


@settings(max_examples=25, deadline=None)
@given(
    devices=st.sampled_from([1, 2, 6, 8, 12, 16]),
    layers=st.integers(1, 9),
    heads=st.sampled_from([(4, 4), (12, 6), (40, 10)]),
    global_batch=st.integers(1, 48),
    length=st.sampled_from([16, 24, 64]),
    gigabytes=st.floats(0.8, 3.0),
    recompute=st.sampled_from(["none", "full"]),
)
def test_no_plan_breaks_a_rule_and_every_choice_is_counted(
    devices: int,
    layers: int,
    heads: tuple[int, int],
    global_batch: int,
    length: int,
    gigabytes: float,
    recompute: str,
) -> None:
    model = dataclasses.replace(MODEL, layers=layers, heads=heads[0], key_value_groups=heads[1])
    asked = question(
        devices=devices,
        memory_bytes=gigabytes * 1e9,
        model=model,
        batch={"global_batch": global_batch, "sequence_length": length},
        recompute=recompute,
        fixed=frozenset({"recompute"}),
    )
    found = search(asked, top=4)
    assert sum(found.refused.values()) + found.fitting == found.space == size_of(asked)
    assert set(found.examples) == set(found.refused)
    assert len(found.plans) == min(4, found.fitting)
    for plan in found.plans:
        run = check(plan.choice.of(asked.run), world_size=devices)
        assert run.recompute == recompute
        assert max(stage.total for stage in plan.memory) <= asked.memory_bytes
    assert all(miss.bytes > asked.memory_bytes for miss in found.misses)


def accepted(run: RunConfig, *, devices: int) -> bool:
    try:
        check(run, world_size=devices)
    except InputError:
        return False
    return True


@pytest.mark.parametrize(("devices", "global_batch", "length"), [(8, 24, 64), (12, 10, 36)])
def test_the_rules_are_those_of_a_real_run(devices: int, global_batch: int, length: int) -> None:
    """Every even split is let pass by the search where `run_config.check` lets it, and nowhere else."""
    asked = question(
        devices=devices,
        batch={"global_batch": global_batch, "sequence_length": length},
        fixed=frozenset({"recompute"}),
    )
    found = passed(asked, Pricing(asked))
    even = {(choice.layout, choice.micro_batch) for choice in found if not choice.layout.stage_layers}
    divisors = [number for number in range(1, devices + 1) if devices % number == 0]
    near = [number for number in divisors if number <= 8]
    really = set()
    for tensor, pipeline, context in product(near, divisors, near):
        for virtual, micro_batch in product(range(1, max(2, MODEL.layers // pipeline + 1)), MICRO_BATCHES):
            layout = ParallelLayout(
                tensor=tensor,
                pipeline=pipeline,
                virtual_pipeline=virtual,
                context=context,
                sequence_parallel=tensor > 1,
            )
            batch = dataclasses.replace(asked.run.batch, micro_batch=micro_batch)
            run = dataclasses.replace(asked.run, layout=layout, batch=batch)
            if accepted(run, devices=devices):
                really.add((layout.for_world(devices), micro_batch))
    assert even == really


def test_a_field_that_is_given_is_the_only_choice() -> None:
    layout = ParallelLayout(tensor=2, pipeline=2)
    fixed = frozenset({"layout.tensor", "layout.pipeline", "batch.micro_batch"})
    asked = dataclasses.replace(question(fixed=fixed), run=dataclasses.replace(question().run, layout=layout))
    found = search(asked, top=50)
    decided = {(p.choice.layout.tensor, p.choice.layout.pipeline, p.choice.micro_batch) for p in found.plans}
    assert decided == {(2, 2, asked.run.batch.micro_batch)}


@given(stages=st.integers(1, 6), chunks=st.integers(1, 4), more=st.integers(0, 30), head=st.floats(0, 4))
def test_a_balanced_split_is_the_best_one(stages: int, chunks: int, more: int, head: float) -> None:
    chunks = chunks if stages > 1 else 1
    layers = stages * chunks + more
    found = balanced(layers, stages=stages, chunks=chunks, head_layers=head)
    assert len(found) == stages * chunks
    assert sum(found) == layers
    assert min(found) >= 1
    sums = [sum(found[stage::stages]) for stage in range(stages)]
    busiest = max([*sums[:-1], sums[-1] + head])
    for last in range(chunks, layers - chunks * (stages - 1) + 1) if stages > 1 else ():
        others = -(-(layers - last) // (stages - 1))
        assert busiest <= max(others, last + head) + 1e-9


def test_it_finds_the_layout_of_the_14b_s_recipe() -> None:
    """Chosen by hand, before there was a search."""
    run = load_recipe("phi4_14b_pretrain")
    found = search(PlanQuestion(run=run, devices=512, device=H100, memory_bytes=80e9), top=1)
    assert found.plans[0].choice.layout == PRETRAINING_LAYOUT.for_world(512)
    assert balanced(40, stages=4, chunks=1, head_layers=1.42) == (11, 10, 10, 9)


def test_too_little_memory_names_the_smallest() -> None:
    asked = question(memory_bytes=1e8)
    found: Found = search(asked)
    assert found.plans == []
    assert found.least_bytes == min(miss.bytes for miss in found.misses) > asked.memory_bytes
    assert f"{found.misses[0].bytes / 1e9:.0f} GB on stage {found.misses[0].stage}" in found.examples[MEMORY]


def test_a_slower_device_takes_longer() -> None:
    fixed = frozenset({"layout.tensor", "layout.context", "layout.virtual_pipeline", "recompute"})
    run = load_recipe("phi4_14b_pretrain")
    asked = PlanQuestion(run=run, devices=512, device=H100, memory_bytes=80e9, fixed=fixed)
    fast, slow = search(asked, top=1), search(dataclasses.replace(asked, device=A100), top=1)
    assert 2 < slow.plans[0].time.seconds / fast.plans[0].time.seconds < 3.2

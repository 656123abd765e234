"""Stages, edited mixtures and changed data, as a run meets them: from real token files through checkpoints.

What every sample is follows from the order alone, which tests/data/order/test_run_order.py checks by brute force; here
the question is whether a run, stopped and started again, reads just that.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from megaphi.data.order.batch_ramp import BatchRamp
from megaphi.data.order.mixture import Mixture, Share, Source, Stage
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.files import read_json
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain, mixture_of
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.stages.mixture_runs import pretrain_here
from tests.stages.stage_runs import with_sections

VOCABULARY = 512
SIZES = {"web": 3_000, "code": 1_700, "books": 1_100}


def write_tokens(prefix: Path, tokens: int, *, seed: int = 0) -> None:
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for start in range(0, tokens, 50):
            length = min(50, tokens - start)
            writer.add_document([(seed + start + place * place) % VOCABULARY for place in range(length)])
        writer.finish({"tokenizer": load_tokenizer(VOCABULARY).fingerprint, "vocabulary_size": VOCABULARY})


@pytest.fixture
def recipe(tmp_path: Path) -> RunConfig:
    """12 steps over three sources, in one stage."""
    for number, (name, tokens) in enumerate(SIZES.items()):
        write_tokens(tmp_path / "data" / name, tokens, seed=number)
    sources = tuple(
        Source(name=name, weight=weight, paths=(str(tmp_path / "data" / name),))
        for name, weight in (("web", 0.5), ("code", 0.3), ("books", 0.2))
    )
    run = tiny_run(
        folder=str(tmp_path / "run"),
        task=Pretrain(mixture=Mixture(sources=sources)),
        model=replace(TINY, layers=2, vocabulary=512),
    )
    return replace(run, training=replace(run.training, steps=12), saving=Saving(every=4))


STAGES = (
    Stage(name="short", tokens=6 * 8 * 32),
    Stage(
        name="long",
        sequence_length=64,
        global_batch=4,
        shares=(Share(name="books", weight=1.0), Share(name="web", weight=2.0)),
    ),
)


def with_stages(run: RunConfig, *stages: Stage) -> RunConfig:
    return replace(run, task=Pretrain(mixture=replace(mixture_of(run), stages=stages)))


def go(run: RunConfig, *, processes: int = 1, **fields: Any) -> dict[str, Any]:
    """Rank 0's result of a run with these fields of its sections."""
    return run_in_world(partial(pretrain_here, with_sections(run, **fields)), processes=processes)[0]


def losses(result: dict[str, Any]) -> list[tuple[int, float, int]]:
    return [(record["step"], record["loss"], record["tokens"]) for record in result["records"]]


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_run_of_stages_resumes_anywhere(recipe: RunConfig, tmp_path: Path, stop: int) -> None:
    """Before, at and after the change of stage, which is one of sequence length, batch and sources too."""
    run = with_stages(recipe, *STAGES)
    straight = go(run, folder=str(tmp_path / "straight"))
    assert straight["message"] is None
    assert [record["tokens"] for record in straight["records"]] == [256 * step for step in range(1, 13)]
    assert go(run, stop_after=stop)["state"]["step"] == stop
    resumed = go(run)
    assert losses(resumed) == losses(straight)
    assert resumed["state"]["ledger"] == straight["state"]["ledger"]
    assert sum(resumed["state"]["tokens_by_source"].values()) == 12 * 256


def test_stages_follow_one_curve_in_every_layout(recipe: RunConfig, tmp_path: Path) -> None:
    run = with_stages(recipe, *STAGES)
    alone = go(run, folder=str(tmp_path / "alone"))
    layouts = (ParallelLayout(tensor=2, sequence_parallel=True), ParallelLayout(pipeline=2), ParallelLayout(data=2))
    for number, layout in enumerate(layouts):
        cut = go(replace(run, layout=layout), folder=str(tmp_path / str(number)), processes=2)
        assert cut["state"]["ledger"] == alone["state"]["ledger"]
        for one, other in zip(losses(alone), losses(cut), strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_a_growing_batch_resumes_and_follows_one_curve(recipe: RunConfig, tmp_path: Path) -> None:
    """2 + 2, then 4, 6 and 8 sequences a step: stopped inside the ramp, and on two replicas."""
    stages = BatchRamp(start=2, increment=2, samples=12).stages(recipe.batch)
    run = replace(with_stages(recipe, *stages), batch=replace(recipe.batch, micro_batch=1))
    straight = go(run, folder=str(tmp_path / "straight"), steps=7)
    assert straight["message"] is None
    assert [record["tokens"] // 32 for record in straight["records"]] == [2, 4, 8, 14, 22, 30, 38]
    go(run, steps=7, stop_after=3)
    resumed = go(run, steps=7)
    assert losses(resumed) == losses(straight)
    assert resumed["state"]["ledger"] == straight["state"]["ledger"]
    cut = go(replace(run, layout=ParallelLayout(data=2)), folder=str(tmp_path / "cut"), steps=7, processes=2)
    for one, other in zip(losses(straight), losses(cut), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_an_edited_mixture_continues_every_source(recipe: RunConfig) -> None:
    before = go(recipe, stop_after=5)["state"]
    sources = (replace(mixture_of(recipe).sources[0], weight=0.1), *mixture_of(recipe).sources[1:])
    edited = replace(recipe, task=Pretrain(mixture=replace(mixture_of(recipe), sources=sources)))
    after = go(edited)
    assert after["message"] is None
    assert "  the mixture was edited: from step 5 on it is read by the new plan" in after["log"]
    assert any(line.startswith("  source web goes on") for line in after["log"])
    ledger = after["state"]["ledger"]
    assert ledger["origin"] == {"step": 5, "sample": 40, "tokens": 1_280}
    for old, new in zip(before["ledger"]["sources"], ledger["sources"], strict=True):
        assert new["at_origin"] == old["now"]
        assert new["now"]["drawn"] > old["now"]["drawn"]
    again = go(edited, steps=14, accept_rate_jump=True)
    assert "  the mixture was edited" not in "".join(again["log"]), "the plan that was edited once is the plan now"
    assert again["state"]["ledger"]["origin"]["step"] == 5


def test_a_source_that_leaves_keeps_its_place(recipe: RunConfig) -> None:
    first = go(recipe, stop_after=4)["state"]["ledger"]["sources"]
    without = replace(
        recipe, task=Pretrain(mixture=replace(mixture_of(recipe), sources=mixture_of(recipe).sources[:2]))
    )
    assert go(without, stop_after=8)["state"]["ledger"]["sources"][2] == {**first[2], "at_origin": first[2]["now"]}
    last = go(recipe)["state"]["ledger"]["sources"]
    assert last[2]["at_origin"] == first[2]["now"]
    assert last[2]["now"]["drawn"] > first[2]["now"]["drawn"]


def test_changed_data_is_refused_and_named(recipe: RunConfig, tmp_path: Path) -> None:
    go(recipe, stop_after=4)
    code = tmp_path / "data" / "code"
    write_tokens(code, 1_650, seed=9)
    refused = go(recipe)
    assert refused["state"]["step"] == 4
    assert f"source 'code': {code} had 1,700 tokens and has 1,650" in refused["message"]
    assert "start.accept_changed_data=true" in refused["message"]
    accepted = go(recipe, accept_changed_data=True)
    assert "  source code has changed: it begins epoch 1" in accepted["log"]
    assert any(line.startswith("  source web goes on") for line in accepted["log"])
    assert accepted["state"]["step"] == 12


def test_another_seed_is_refused(recipe: RunConfig) -> None:
    go(recipe, stop_after=4)
    assert "seed was 1234 and is 7" in go(replace(recipe, seed=7))["message"]


def test_data_may_move(recipe: RunConfig, tmp_path: Path) -> None:
    straight = go(recipe, folder=str(tmp_path / "straight"))
    go(recipe, stop_after=4)
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    sources = tuple(
        replace(source, paths=(str(tmp_path / "elsewhere" / source.name),)) for source in mixture_of(recipe).sources
    )
    moved = go(replace(recipe, task=Pretrain(mixture=replace(mixture_of(recipe), sources=sources))))
    assert losses(moved) == losses(straight)


def test_a_new_run_may_go_on_with_the_sources_of_another(recipe: RunConfig, tmp_path: Path) -> None:
    before = go(recipe, stop_after=4)["state"]
    folder = recipe.folder
    fresh = go(recipe, folder=str(tmp_path / "next"), initial_checkpoint=folder, continue_sources=True, steps=6)
    assert fresh["message"] is None
    for old, new in zip(before["ledger"]["sources"], fresh["state"]["ledger"]["sources"], strict=True):
        assert new["at_origin"] == old["now"]
    restarted = go(recipe, folder=str(tmp_path / "restarted"), initial_checkpoint=folder, steps=6)
    assert restarted["state"]["ledger"]["sources"][0]["at_origin"]["drawn"] == 0


def test_a_run_in_megatrons_order_resumes_and_cannot_be_edited(recipe: RunConfig, tmp_path: Path) -> None:
    run = replace(recipe, task=Pretrain(mixture=replace(mixture_of(recipe), order="megatron")))
    straight = go(run, folder=str(tmp_path / "straight"))
    go(run, stop_after=5)
    refused = go(replace(run, batch=replace(run.batch, global_batch=4)))
    assert "Megatron's order can only be continued unchanged" in refused["message"]
    assert "this run reads its data in the order 'megatron'" in go(recipe)["message"]
    assert losses(go(run)) == losses(straight)


def test_more_steps_for_a_finished_run_do_not_raise_its_rate_in_silence(recipe: RunConfig) -> None:
    finished = go(recipe)
    refused = go(recipe, steps=24)
    assert "the learning rate would jump from 3e-05 to 0.000186 at step 13" in refused["message"]
    assert "optimizer.decay_steps=7, which keeps the schedule as it was" in refused["message"]
    assert refused["records"] == finished["records"]
    assert read_json(Path(recipe.folder) / "config.json", what="configuration")["training"]["steps"] == 12
    kept = go(replace(recipe, optimizer=replace(recipe.optimizer, decay_steps=7)), steps=16)
    assert [record["learning_rate"] for record in kept["records"][11:]] == pytest.approx([3e-5] * 5)

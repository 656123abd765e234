"""The order of a step's passes against Megatron's own tables, and the time that follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.model.arithmetic import head_in_layers
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.pipeline import (
    ChunkWork,
    Pass,
    chunk_work,
    kept_at_most,
    moments,
    most_kept,
    passes_of,
    pipeline_time,
)
from tests.engine.layout_runs import TINY, tiny_run


@given(stages=st.integers(2, 5), chunks=st.integers(1, 4), more=st.integers(0, 12))
def test_passes_are_those_of_megatrons_schedules(stages: int, chunks: int, more: int) -> None:
    """Order of the chunks as in Megatron's table; forward passes before the first backward one as Megatron counts."""
    from megatron.core.pipeline_parallel.schedules import get_schedule_table

    layout, micro_batches = ParallelLayout(pipeline=stages, virtual_pipeline=chunks), stages + more
    group = layout.micro_batch_group(micro_batches)
    table = get_schedule_table(micro_batches, chunks, group)
    for stage in range(stages):
        passes = passes_of(layout, micro_batches, stage=stage)
        forward = [(one.micro_batch, one.chunk // stages) for one in passes if one.forward]
        backward = [(one.micro_batch, chunks - 1 - one.chunk // stages) for one in passes if not one.forward]
        assert forward == backward == table
        assert all(one.chunk % stages == stage for one in passes)
        ahead = stages - 1 - stage if chunks == 1 else 2 * (stages - 1 - stage) + (chunks - 1) * group
        first_backward = next(number for number, one in enumerate(passes) if not one.forward)
        assert first_backward == min(ahead + 1, len(table))


@given(stages=st.integers(1, 4), more=st.integers(0, 9))
def test_1f1b_of_equal_stages_idles_as_known(stages: int, more: int) -> None:
    """(stages - 1) of the time of a micro-batch; so many micro-batches are kept as stages follow, and one."""
    layout, micro_batches = ParallelLayout(pipeline=stages), stages + more
    found = pipeline_time(layout, micro_batches, [ChunkWork(1.0, 2.0)] * stages)
    assert found.balance == pytest.approx(1.0)
    assert found.total == pytest.approx(3.0 * (micro_batches + stages - 1))
    kept = [
        most_kept(kept_at_most(layout, micro_batches, layers=stages, stage=stage), layer=1.0) for stage in range(stages)
    ]
    assert kept == [stages - stage for stage in range(stages)]


@given(stages=st.integers(2, 4), chunks=st.integers(2, 4), more=st.integers(0, 12))
def test_interleaving_divides_the_bubble_by_the_chunks_whatever_the_group(stages: int, chunks: int, more: int) -> None:
    layout, micro_batches = ParallelLayout(pipeline=stages, virtual_pipeline=chunks), stages + more
    found = pipeline_time(layout, micro_batches, [ChunkWork(1.0, 2.0)] * (stages * chunks))
    assert found.total == pytest.approx(3.0 * (micro_batches * chunks + stages - 1))


def test_one_layer_fewer_under_the_head_balances_phi4() -> None:
    """The head counts as 1.42 layers: 10.355 of 11.42 with equal stages, of 11 with 11/10/10/9."""
    work = [ChunkWork(layers, 2 * layers) for layers in (10, 10, 10, 11.42)]
    assert pipeline_time(ParallelLayout(pipeline=4), 45, work).balance == pytest.approx(0.907, abs=5e-4)
    work = [ChunkWork(layers, 2 * layers) for layers in (11, 10, 10, 10.42)]
    uneven = pipeline_time(ParallelLayout(pipeline=4, stage_layers=(11, 10, 10, 9)), 45, work)
    assert uneven.balance == pytest.approx(0.941, abs=5e-4)
    assert uneven.efficiency < uneven.balance


def test_the_dry_run_says_what_a_split_costs(capsys: pytest.CaptureFixture[str]) -> None:
    fields = ["layout.tensor=1", "layout.virtual_pipeline=1", "layout.stage_layers=11,10,10,9"]
    assert main(["train", "phi4_14b_pretrain", "--dry-run", "--world-size", "512", *fields]) == 0
    printed = capsys.readouterr().out
    assert "layers per stage      11, 10, 10, 9\n" in printed
    assert "94.1% of the time by the split, the head counted as 1.42 layers\n" in printed
    assert "89.1% with the bubble" in printed
    interleaved = ["layout.tensor=1", "layout.virtual_pipeline=5", "layout.stage_layers="]
    assert main(["train", "phi4_14b_pretrain", "--dry-run", "--world-size", "512", *interleaved]) == 0
    printed = capsys.readouterr().out
    assert "45 of 1 on each of 128 replicas, interleaved in groups of 5\n" in printed
    assert "layers per stage      2+2+2+2+2, " in printed


def test_what_is_recomputed_counts_in_the_backward_pass() -> None:
    run = tiny_run(layout=ParallelLayout(pipeline=2, stage_layers=(3, 1)))
    head = head_in_layers(TINY, sequence_length=32)
    assert chunk_work(run) == [ChunkWork(3, 6), ChunkWork(1 + head, 2 + 2 * head)]
    again = replace(run, recompute="full", model=replace(TINY, loss_chunk_tokens=8))
    assert chunk_work(again) == [ChunkWork(3, 9), ChunkWork(1 + head, 3 + 3 * head)]


def test_a_pass_keeps_its_chunk_until_its_backward_pass() -> None:
    passes = [Pass(0, 0, True), Pass(2, 0, True), Pass(2, 0, False), Pass(0, 1, True), Pass(0, 0, False)]
    kept = moments(passes, [3, 0, 2])
    assert most_kept(kept, layer=1) == 6
    assert most_kept(kept, layer=1, head=4) == 3 + 2 + 4
    assert most_kept(kept, layer=1, output=1) == 6 + 2  # that of the top chunk is a loss, which goes nowhere
    assert most_kept(kept, layer=1, again=1) == 6 + 1
    assert most_kept(kept, layer=1, head=4, again=7) == 6 + 7


@given(stages=st.integers(1, 4), chunks=st.integers(1, 4), more=st.integers(0, 60), stage=st.integers(0, 3))
def test_the_groups_in_the_middle_of_a_step_keep_nothing_more(stages: int, chunks: int, more: int, stage: int) -> None:
    layout = ParallelLayout(pipeline=stages, virtual_pipeline=chunks if stages > 1 else 1)
    layers = [2 + number % 3 for number in range(layout.pipeline * layout.virtual_pipeline)]
    layout = replace(layout, stage_layers=tuple(layers))
    passes = passes_of(layout, stages + more, stage=stage % stages)
    found = kept_at_most(layout, stages + more, layers=sum(layers), stage=stage % stages)
    assert set(found) == set(moments(passes, layers))

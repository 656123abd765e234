"""Scores of texts in training: right in every layout, and training does not notice that they were taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.data.batch import NO_SAMPLE
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.training.text_scores import ScoredText, passes, rows_of
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, tiny_run
from tests.engine.training.text_score_runs import drawn_within, phases_while_scoring, scored, scored_one_by_one, trained
from tests.gloo_world import run_in_world

LAYOUTS = {
    "data 4": {"data": 4},
    "tensor 2 x pipeline 2": {"tensor": 2, "pipeline": 2, "sequence_parallel": True},
    "pipeline 2, virtual 2 x data 2": {"pipeline": 2, "virtual_pipeline": 2, "data": 2},
    "tensor 2 x context 2": {"tensor": 2, "context": 2, "sequence_parallel": True},
}


@given(
    parts=st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=2, max_size=6), st.integers(1, 5)), max_size=12),
    tokens=st.integers(1, 20),
    replicas=st.integers(1, 3),
    most=st.integers(1, 3),
    least=st.integers(1, 4),
)
def test_every_token_is_read_once_where_its_context_ends(
    parts: list[tuple[list[int], int]], tokens: int, replicas: int, most: int, least: int
) -> None:
    texts = [ScoredText(tuple(text), min(scored, len(text) - 1)) for text, scored in parts]
    rows = rows_of(texts)
    wanted = {
        (number, place): (text.tokens[:place], text.tokens[place])
        for number, text in enumerate(texts)
        for place in range(len(text.tokens) - text.scored, len(text.tokens))
    }
    found = {}
    for one in passes(rows, tokens=tokens, multiple=2, replicas=replicas, most=most, least=least):
        assert least <= one.micro_batches <= max(least, most)
        for replica in range(replicas):
            batches = one.batches(replica)
            assert len(batches) == one.micro_batches
            for batch in batches:
                assert batch.tokens_BS.shape == (one.rows_each, one.length)
                assert one.length % 2 == 0
                assert one.rows_each == 1 or batch.tokens_BS.size <= tokens
                for row_S, number in zip(batch.tokens_BS, batch.sample_numbers_B, strict=True):
                    for position, following, text in one.rows[number].reads if number != NO_SAMPLE else ():
                        key = (text, position + 1)
                        assert key not in found
                        found[key] = (tuple(row_S[: position + 1].tolist()), following)
    assert found == wanted
    assert len(rows) == len({row.tokens for row in rows}) <= len(texts)


def test_a_row_that_begins_another_is_not_computed_again() -> None:
    letters = [ScoredText((5, 6, 7, letter), 1) for letter in (1, 2, 3)]
    rows = rows_of([*letters, ScoredText((5, 6), 1), ScoredText((5, 6, 7, 8, 9), 2), ScoredText((6, 7), 1)])
    assert [row.tokens for row in rows] == [(5, 6, 7, 8), (6,)]


@pytest.fixture(scope="module")
def run() -> RunConfig:
    """A vocabulary that two tensor ranks do not divide; initial weights that make some tokens likely."""
    return tiny_run(model=replace(TINY, vocabulary=251, initial_std=0.1))


def in_layout(run: RunConfig, **layout: Any) -> RunConfig:
    return replace(run, layout=ParallelLayout(**layout))


def test_scores_are_those_of_each_text_alone_in_every_layout(run: RunConfig) -> None:
    alone = run_in_world(scored_one_by_one, run, processes=1)[0]
    assert sum(greedy for _, greedy in alone) >= 1
    reference = replace(run, model=replace(run.model, kernels="reference"))
    chunks = replace(run, model=replace(run.model, loss_chunk_tokens=20))
    here = run_in_world(scored, [run, reference, chunks], processes=1)[0]
    spread = run_in_world(scored, [in_layout(run, **layout) for layout in LAYOUTS.values()], processes=4)
    assert all(rank == spread[0] for rank in spread)
    for name, scores in zip(("one", "reference", "chunks", *LAYOUTS), (*here, *spread[0]), strict=True):
        assert [total for total, _ in scores] == pytest.approx([total for total, _ in alone], rel=1e-6, abs=1e-5), name
        assert [greedy for _, greedy in scores] == [greedy for _, greedy in alone], name


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_is_the_same_to_the_bit_with_scores_taken_after_every_update(run: RunConfig, name: str) -> None:
    full = replace(
        in_layout(run, **LAYOUTS[name]),
        precision=NumericPrecision(parameters="bfloat16"),
        recompute="full" if name.startswith("tensor 2 x pipeline") else "none",
        bucket_parameters=2_000,
    )
    found = run_in_world(trained_for_three_steps, full, processes=4)
    for without, with_scores in found:
        assert with_scores["run"] == without["run"]
        assert len(with_scores["scores"]) == 3
        assert with_scores["scores"] == found[0][1]["scores"]
        assert with_scores["scores"][0] != with_scores["scores"][2]


def test_a_model_that_draws_at_random_goes_on_as_if_nobody_had_scored(run: RunConfig) -> None:
    assert run_in_world(drawn_within, run, processes=1)[0] == [True, True, True]


def test_the_heartbeat_sees_an_evaluation_move(run: RunConfig) -> None:
    seen, seconds = run_in_world(phases_while_scoring, run, processes=1)[0]
    assert seen == [f"evaluation, pass {number}" for number in range(1, len(seen) + 1)]
    assert len(seen) > 2
    assert not any("pass" in phase for phase in seconds)
    assert seconds["evaluation"] > 0


def trained_for_three_steps(run: RunConfig) -> list[dict[str, Any]]:
    return trained(run, steps=3)

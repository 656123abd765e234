"""Decode steps of fixed shape: the numbers of passes that are not padded, from a graph that knows only its tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megaphi.engine.inference.decode_step import _sizes
from tests.conversion.random_models import SHAPES, random_folder
from tests.engine.inference.decode_runs import LARGEST, asked_while_decoding, outcomes
from tests.engine.layout_runs import TINY
from tests.gloo_world import run_in_new_world, run_in_world


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("decode") / "model"
    random_folder(folder, replace(SHAPES["3 heads per group"], layers=2), scale=0.6)
    (result,) = run_in_world(outcomes, str(folder), processes=1)
    return result


def test_a_padded_step_has_the_logits_of_an_unpadded_pass(found: dict[str, Any]) -> None:
    """Up to the rounding of matrix products of other shapes; logits are of the order of 10."""
    assert set(found["differences"]) == {1, 2, 3, 4, 5, 7, 8, 9, LARGEST}
    assert max(found["differences"].values()) < 5e-5


def test_captured_steps_give_the_same_answers(found: dict[str, Any]) -> None:
    plain, captured = found["answers"]
    for ours, theirs in zip(captured["answers"], plain["answers"], strict=True):
        for (tokens, numbers), (expected_tokens, expected) in zip(ours, theirs, strict=True):
            assert tokens == expected_tokens
            assert numbers == pytest.approx(expected, abs=1e-4)
    assert plain["captured"] == plain["replayed"] == 0
    assert 1 <= captured["captured"] <= 4
    assert captured["replayed"] > 20


def test_a_step_asks_the_device_nothing() -> None:
    """Not even where the ranks of a tensor group share it; a question raises (tests/model/test_questions.py)."""
    (shapes,) = run_in_new_world(asked_while_decoding, processes=1)
    assert shapes == [str((tokens, TINY.vocabulary)) for tokens in (3, 4, 11)]


def test_sizes_waste_little() -> None:
    for largest in (1, 3, 8, 32, 100, 256, 1_000):
        sizes = _sizes(largest)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == largest
        for tokens in range(1, largest + 1):
            size = next(size for size in sizes if size >= tokens)
            assert size - tokens <= max(7, tokens / 7)
    assert len(_sizes(1_000)) < 40

"""Context parallelism 2 and 4: losses and whole gradients of one process, whatever attends to what.

Rows of documents that see each other or not, packed conversations, and pairs of answers behind one prompt. What plain
PyTorch computes of packed rows in these layouts is in `test_packed_training.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from megaphi.engine.run_config import RunConfig
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.random_models import attentive_folder
from tests.engine.layout_runs import contents
from tests.gloo_world import run_in_world
from tests.stages.context_runs import CASES, LAYOUTS, MOST, a_step_that_ignores_a_boundary, saved_again, steps
from tests.stages.packed_runs import SHAPE, difference, gradients, processes_of
from tests.stages.stage_runs import dpo_run, sft_run, stage_here, write_conversations, write_pairs

if TYPE_CHECKING:
    from megaphi.engine.training.train_step import StepResult

Found = tuple["dict[str, StepResult]", Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attentive_folder(tmp_path_factory.mktemp("context") / "model", SHAPE)


@pytest.fixture(scope="module")
def alone(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("alone")
    (found,) = run_in_world(steps, str(folder), str(checkpoint), ParallelLayout(), list(CASES), processes=1)
    return found, folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_context_ranks_compute_what_one_process_does(name: str, checkpoint: Path, alone: Found, tmp_path: Path) -> None:
    layout, cases = LAYOUTS[name], list(CASES if name in ("CP2", "CP4") else MOST)
    expected, folder = alone
    for rank in run_in_world(steps, str(tmp_path), str(checkpoint), layout, cases, processes=processes_of(layout)):
        for case in cases:
            found, wanted = rank[case], expected[case]
            assert found.trained == wanted.trained, case
            assert found.loss == pytest.approx(wanted.loss, rel=1e-6), case
            assert found.means == pytest.approx(wanted.means, rel=1e-6, abs=1e-6), case
    for case in cases:
        assert difference(gradients(tmp_path / case), gradients(folder / case)) < 1e-6, case


def test_a_boundary_that_one_rank_ignores_shows(checkpoint: Path, alone: Found, tmp_path: Path) -> None:
    """The first two documents of a micro-batch, which the other rank still keeps apart."""
    expected, folder = alone
    found = run_in_world(a_step_that_ignores_a_boundary, str(tmp_path), str(checkpoint), processes=2)
    assert abs(found[0] - expected["isolated"].loss) > 1e-4
    assert difference(gradients(tmp_path), gradients(folder / "isolated")) > 1e-2


def test_checkpoints_change_context_ranks_to_the_bit(checkpoint: Path, tmp_path: Path) -> None:
    """A step of four context ranks, saved again by each of the other layouts of four, and by one process."""
    ranks, own = LAYOUTS["CP4"], tmp_path / "own"
    run_in_world(steps, str(own), str(checkpoint), ranks, ["packed"], processes=4)
    saved = f"{own}/packed/checkpoints/step_00000001"
    expected = contents(saved)
    others = [ParallelLayout(), *(layout for layout in LAYOUTS.values() if processes_of(layout) == 4)]
    for number, layout in enumerate(others):
        arguments = (str(tmp_path / str(number)), saved, layout)
        folders = run_in_world(saved_again, *arguments, processes=processes_of(layout))
        assert contents(folders[0]) == expected, layout


def go(run: RunConfig, **layout: Any) -> list[dict[str, Any]]:
    ways = ParallelLayout(**layout)
    found = run_in_world(stage_here, replace(run, layout=ways), processes=processes_of(ways))[0]
    assert found["message"] is None
    return found["records"]


def measured(records: list[dict[str, Any]], *names: str) -> np.ndarray:
    return np.array([[record[name] for name in names] for record in records])


def test_a_fine_tuning_goes_on_under_other_context_ranks(checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_conversations(data / "train.jsonl", 60, seed=1)
    write_conversations(data / "held_out.jsonl", 9, seed=2)
    whole = go(sft_run(tmp_path / "whole", data, checkpoint=None, steps=6))
    parts = sft_run(tmp_path / "parts", data, checkpoint=None, steps=6)
    go(with_stop(parts, 2), context=2, data=2)
    go(with_stop(parts, 4), context=4)
    resumed = go(parts, context=2, pipeline=2)
    names = ("loss", "gradient_norm", "tokens")
    np.testing.assert_allclose(measured(resumed, *names), measured(whole, *names), rtol=2e-6)


def test_preferences_begin_at_ln_2_and_go_on(checkpoint: Path, tmp_path: Path) -> None:
    """The reference's log-probabilities are of the same sums, and one layout finds what the other has written."""
    data = tmp_path / "data"
    write_pairs(data / "pairs.jsonl", 40, seed=1)
    write_pairs(data / "pairs_held_out.jsonl", 7, seed=2)
    whole = go(dpo_run(tmp_path / "whole", data, checkpoint, steps=4))
    parts = dpo_run(tmp_path / "parts", data, checkpoint, steps=4)
    go(with_stop(parts, 2), context=4)
    resumed = go(parts, tensor=2, context=2)
    assert measured(resumed, "preference_loss")[0, 0] == pytest.approx(np.log(2), abs=1e-6)
    names = ("loss", "gradient_norm", "accuracy", "accepted_log_probability", "accepted_tokens")
    np.testing.assert_allclose(measured(resumed, *names), measured(whole, *names), rtol=2e-5)


def with_stop(run: RunConfig, step: int) -> RunConfig:
    return replace(run, training=replace(run.training, stop_after=step))

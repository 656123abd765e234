"""Vocabularies that tensor ranks do not divide: losses, gradients, checkpoints and logits are those of one process.

First every way to compute the model against one process, then the padding itself, which must stay exactly zero; then a
checkpoint on its way through layouts of three, one, two and again three ranks, which must not change one byte.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaphi.checkpoint.format import CheckpointReader
from megaphi.engine.run_config import NumericPrecision
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import contents
from tests.engine.padding_runs import TEN, Case, case, logits, trained
from tests.gloo_world import run_in_world

WAYS = [{}, {"loss_chunk_tokens": 5}, {"kernels": "reference"}]
BF16 = {"precision": NumericPrecision(parameters="bfloat16")}


def run_cases(cases: list[Case], *, processes: int) -> list[list[dict[str, Any]]]:
    """For each case what every rank found."""
    return [list(ranks) for ranks in zip(*run_in_world(partial(trained, cases), processes=processes), strict=True)]


@pytest.fixture(scope="module")
def alone() -> dict[int, dict[str, Any]]:
    """Results of one process, by vocabulary."""
    cases = [case({}, {"vocabulary": size}) for size in (65, 100, 257)] + [case({}, like=TEN)]
    found = run_cases(cases, processes=1)
    return {run.model.vocabulary: ranks[0] for (run, _), ranks in zip(cases, found, strict=True)}


def assert_same_curves(cases: list[Case], found: list[list[dict[str, Any]]], alone: dict[int, dict[str, Any]]) -> None:
    for (run, _), ranks in zip(cases, found, strict=True):
        expected = alone[run.model.vocabulary]
        for result in ranks:
            for name in ("losses", "norms"):
                np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=1e-5, err_msg=str(run.layout))
            assert result["tokens"] == expected["tokens"]


def test_three_tensor_ranks_follow_one_process(alone: dict[int, dict[str, Any]]) -> None:
    cases = [
        case({"tensor": 3, "sequence_parallel": sequence}, {"vocabulary": size, **way})
        for way in WAYS
        for size, sequence in ((257, False), (100, True))
    ]
    found = run_cases(cases, processes=3)
    assert_same_curves(cases, found, alone)
    for (run, _), ranks in zip(cases, found, strict=True):
        rows = {257: [0, 0, 127], 100: [0, 28, 64]}[run.model.vocabulary]
        assert [result["padding"] for result in ranks] == [2 * 48 * padding for padding in rows]  # two matrices


def test_two_tensor_ranks_beside_other_ways_to_cut_follow_one_process(alone: dict[int, dict[str, Any]]) -> None:
    """One of two replicas owns optimizer state that lies wholly in the padding."""
    layouts: list[dict[str, Any]] = [{"tensor": 2, "data": 2}, {"tensor": 2, "pipeline": 2}]
    cases = [
        case(layout, {"vocabulary": size, **way}) for layout in layouts for size, way in ((65, {}), (257, WAYS[1]))
    ]
    found = run_cases(cases, processes=4)
    assert_same_curves(cases, found, alone)
    assert [result["padding"] for result in found[0]] == [0, 2 * 48 * 63] * 2


def test_ranks_may_hold_padding_only(alone: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    cases = [case({"tensor": 5}, {"kernels": kernels}, like=TEN) for kernels in ("fused", "reference")]
    cases.append(case({"tensor": 5, "sequence_parallel": True}, {"loss_chunk_tokens": 7}, like=TEN))
    cases.append(case({"tensor": 5}, like=TEN, folder=str(tmp_path / "five"), save=True))
    found = run_cases(cases, processes=5)
    assert_same_curves(cases, found, alone)
    assert [result["padding"] for result in found[0]] == [2 * 40 * rows for rows in (0, 0, 22, 128, 128)]
    held = CheckpointReader(tmp_path / "five")
    assert held.shape("model/output_layer.weight") == held.shape("optimizer/exp_avg/output_layer.weight") == (362, 40)
    holders = {piece["file"] for piece in held.tensors["model/output_layer.weight"]["pieces"]}
    assert holders == {f"rank_{rank:05d}.safetensors" for rank in range(3)}


@pytest.mark.parametrize("fields", [{}, BF16], ids=["fp32", "bf16"])
def test_no_layout_changes_a_byte_of_a_checkpoint(fields: dict[str, Any], tmp_path: Path) -> None:
    """Saved by three tensor ranks, then loaded and saved again by one, by two with two replicas, and by three."""
    three: dict[str, Any] = {"tensor": 3}

    def folder(name: str) -> str:
        return str(tmp_path / name)

    whole, before, after = run_cases(
        [
            case(three, fields=fields, steps=4),
            case(three, fields=fields, steps=2, folder=folder("first"), save=True),
            case(three, fields=fields, steps=2, load=folder("first")),
        ],
        processes=3,
    )
    for straight, one, other in zip(whole, before, after, strict=True):
        for name in ("losses", "norms"):
            assert one[name] + other[name] == straight[name]
        assert other["weights"] == straight["weights"]
    saved = contents(folder("first"))
    assert len(saved) == (3 if not fields else 4) * (3 + 2 * 6)
    previous = "first"
    for name, layout, processes in (
        ("one", {}, 1),
        ("four", {"tensor": 2, "data": 2}, 4),
        ("three", three, 3),
    ):
        run_cases(
            [case(layout, fields=fields, steps=0, load=folder(previous), folder=folder(name), save=True)],
            processes=processes,
        )
        assert contents(folder(name)) == saved
        previous = name


def test_logits_are_of_tokens_that_exist(tmp_path: Path) -> None:
    folders = [str(tmp_path / kernels) for kernels in ("fused", "reference")]
    run_cases(
        [
            case({}, {"vocabulary": 100, "kernels": Path(folder).name}, steps=1, folder=folder, save=True)
            for folder in folders
        ],
        processes=1,
    )
    (expected,) = run_in_world(partial(logits, folders, ParallelLayout()), processes=1)
    for found in run_in_world(partial(logits, folders, ParallelLayout(tensor=3)), processes=3):
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.shape == (2, 17, 100)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)

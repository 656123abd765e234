"""Tensor ranks that do not divide the key-value groups: 40 heads in 10 groups on 4 and on 8 ranks, as Phi-4's.

They follow the curve of one process, whose layers share no code with the copies; the copies are their owners' bits in
every step, and no layout shows in what is saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megaphi.conversion.to_huggingface import to_huggingface
from megaphi.parallel.layout import ParallelLayout
from tests.conversion.parity_runs import greedy
from tests.engine.copied_groups_runs import INTERLEAVED, LAYOUTS, continue_from_all, cut, resume, train_under, world_of
from tests.engine.layout_runs import contents
from tests.gloo_world import run_in_world

Cases = dict[str, tuple[ParallelLayout, dict[str, Any]]]
TP4 = LAYOUTS["TP4"]
OTHER_WAYS: Cases = {
    "reference": (TP4, {"kernels": "reference"}),
    "reference, recomputed": (TP4, {"kernels": "reference", "recompute": "full"}),
    "softmax": (TP4, {"attention": "softmax"}),
    "recomputed": (ParallelLayout(tensor=4, sequence_parallel=True), {"recompute": "full"}),
    "attention recomputed": (TP4, {"recompute": "selective"}),
}
BY_WORLD = {size: [name for name in LAYOUTS if world_of(name) == size] for size in (1, 2, 4, 8)}


def trained(cases: Cases, *, processes: int, folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Findings of every rank in each case."""
    ranks = run_in_world(train_under, cases, folder and str(folder), processes=processes)
    return {name: [rank[name] for rank in ranks] for name in cases}


def plain(names: list[str]) -> Cases:
    return {name: (LAYOUTS[name], {}) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return trained(plain(["1"]), processes=1, folder=folder)["1"][0]


def assert_follows(alone: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> None:
    for name, ranks in found.items():
        for rank in ranks:
            for curve in ("losses", "norms"):
                np.testing.assert_allclose(rank[curve], alone[curve], rtol=0, atol=1e-5, err_msg=f"{name}: {curve}")
            assert rank["tokens"] == alone["tokens"]
            assert rank["different"] == [], name
            assert set(rank["gradients_of_copies"]) <= {0.0}, name


@pytest.mark.parametrize("processes", [4, 8])
def test_every_layout_follows_one_process(alone: dict[str, Any], folder: Path, processes: int) -> None:
    found = trained(plain(BY_WORLD[processes]), processes=processes, folder=folder)
    assert_follows(alone, found)
    held = {name: [bool(rank["gradients_of_copies"]) for rank in ranks] for name, ranks in found.items()}
    assert all(any(ranks) and not all(ranks) for ranks in held.values())  # the last rank copies nothing


def test_so_do_other_ways_to_compute_it(alone: dict[str, Any]) -> None:
    assert_follows(alone, trained(OTHER_WAYS, processes=4))


def test_interleaved_stages_follow_one_process_and_save_the_same_bits(tmp_path: Path) -> None:
    """Two virtual stages of unequally many layers, and five micro-batches, of which a group has three."""
    fields = {"model": "deep", "global_batch": 5}
    assert INTERLEAVED.micro_batch_group(5) == 3
    alone = trained({"alone": (ParallelLayout(), fields)}, processes=1, folder=tmp_path)["alone"][0]
    assert_follows(alone, trained({"cut": (INTERLEAVED, fields)}, processes=8, folder=tmp_path))
    run_in_world(cut, {"alone, cut": INTERLEAVED}, str(tmp_path / "alone"), str(tmp_path), "deep", processes=8)
    run_in_world(cut, {"cut, alone": ParallelLayout()}, str(tmp_path / "cut"), str(tmp_path), "deep", processes=1)
    for trained_by, saved_again_by in (("alone", "alone, cut"), ("cut", "cut, alone")):
        assert contents(tmp_path / saved_again_by) == contents(tmp_path / trained_by)
        exported = to_huggingface(tmp_path / trained_by, tmp_path / f"{trained_by}, exported")
        again = to_huggingface(tmp_path / saved_again_by, tmp_path / f"{saved_again_by}, exported")
        for file in exported.iterdir():
            assert (again / file.name).read_bytes() == file.read_bytes(), (trained_by, file.name)


@pytest.mark.parametrize("kernels", ["fused", "reference"])
def test_ranks_with_unequally_many_groups(kernels: str) -> None:
    """6 heads in 2 groups on 3 ranks: the middle one has a head of each, and the others room for a group too many."""
    fields = {"model": "lopsided", "kernels": kernels}
    alone = trained({"1": (ParallelLayout(), fields)}, processes=1)["1"][0]
    assert_follows(alone, trained({"TP3": (ParallelLayout(tensor=3), fields)}, processes=3))


def test_more_ranks_than_groups() -> None:
    """6 heads in 2 groups on 6 ranks: three hold each group, two of them as copies."""
    fields = {"model": "lopsided"}
    alone = trained({"1": (ParallelLayout(), fields)}, processes=1)["1"][0]
    assert_follows(alone, trained({"TP6": (ParallelLayout(tensor=6), fields)}, processes=6))


@pytest.fixture(scope="module")
def moved(folder: Path, alone: dict[str, Any]) -> Path:
    """The state that one process has trained, saved under every layout in `moved/NAME`."""
    for size, names in BY_WORLD.items():
        layouts = {name: LAYOUTS[name] for name in names}
        run_in_world(cut, layouts, str(folder / "1"), str(folder / "moved"), processes=size)
    return folder / "moved"


def test_every_layout_saves_and_exports_the_same_bits(folder: Path, moved: Path, tmp_path: Path) -> None:
    expected = contents(folder / "1")
    exported = to_huggingface(folder / "1", tmp_path / "expected")
    for name in LAYOUTS:
        assert contents(moved / name) == expected, name
        out = to_huggingface(moved / name, tmp_path / name)
        for file in exported.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), (name, file.name)


@pytest.mark.parametrize("target", ["TP2", "TP4", "TP8+SP"])
def test_what_follows_does_not_depend_on_who_saved(moved: Path, target: str) -> None:
    sources = ["1", "TP2", "TP4", "TP8+SP"]
    ranks = run_in_world(continue_from_all, [target], sources, str(moved), processes=world_of(target))
    for rank in ranks:
        assert all(result == rank[target, target] for result in rank.values())


@pytest.mark.parametrize(("processes", "names"), [(4, ["TP4"]), (8, ["TP4xDP2"])])
def test_resuming_ones_own_is_bit_exact(processes: int, names: list[str], tmp_path: Path) -> None:
    """In bf16, where the fp32 main weights of copies are not saved."""
    for rank in run_in_world(resume, names, str(tmp_path), processes=processes):
        for straight, continued in rank.values():
            assert straight == continued


@pytest.mark.parametrize("tensor", [4, 8])
def test_generation_continues_as_one_process(alone: dict[str, Any], folder: Path, tensor: int) -> None:
    """By a cache of the groups that each rank holds: prompts of several lengths, greedily."""
    prompts = [[1, 2, 3], [5] * 8, [7, 200, 20, 11]]
    (expected,) = run_in_world(greedy, str(folder / "1"), ParallelLayout(), prompts, 8, processes=1)
    ranks = run_in_world(greedy, str(folder / "1"), ParallelLayout(tensor=tensor), prompts, 8, processes=tensor)
    assert ranks == [expected] * tensor

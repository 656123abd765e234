"""A checkpoint of any layout continues under any other as if that one had written it: eight by eight, bit for bit.

One state is loaded and saved again under each of eight layouts: the contents stay the same to the bit. Then each layout
goes on from each of the eight, and its losses and the digest of every rank's weights and moments after them do
not depend on who wrote the checkpoint. Against one process they differ by rounding. What each has trained by itself, in
bf16 with fp32 main weights, each saves again to the bit. Resuming one's own is bit-exact too, in fp32, and in bf16 from
a save that is written while training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.layout_runs import contents
from tests.engine.reshard_runs import LAYOUTS, continue_from_all, cut, move, resume, train_first, train_under, world_of
from tests.gloo_world import run_in_world

BY_WORLD = {size: [name for name in LAYOUTS if world_of(name) == size] for size in (1, 2, 4)}
Pairs = dict[tuple[str, str], list[dict[str, Any]]]
"""(saved under, loaded under) -> what each rank found."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One state in `source`, and saved under every layout in `cut/NAME`."""
    folder = tmp_path_factory.mktemp("reshard")
    run_in_world(train_first, str(folder / "source"), processes=1)
    for size, names in BY_WORLD.items():
        run_in_world(cut, names, str(folder / "source"), str(folder / "cut"), processes=size)
    return folder


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Pairs:
    found: Pairs = {}
    for size, names in BY_WORLD.items():
        for rank in run_in_world(continue_from_all, names, str(folder / "cut"), processes=size):
            for pair, result in rank.items():
                found.setdefault(pair, []).append(result)
    assert len(found) == len(LAYOUTS) ** 2
    return found


def test_every_layout_saves_the_same_bits(folder: Path) -> None:
    source = contents(folder / "source")
    assert len(source) == 3 * (3 + 4 * 6)
    for name in LAYOUTS:
        saved = contents(folder / "cut" / name)
        assert [key for key in source if saved.get(key) != source[key]] == [], name


def test_what_follows_does_not_depend_on_who_saved(pairs: Pairs) -> None:
    assert_all(lambda source, target: pairs[source, target] == pairs[target, target])


def assert_all(holds: Callable[[str, str], bool]) -> None:
    """Every pair passes; else a picture shows which do not."""
    rows = [[("=" if holds(source, target) else "X") for target in LAYOUTS] for source in LAYOUTS]
    picture = "\n".join(f"{name:>9} {' '.join(row)}" for name, row in zip(LAYOUTS, rows, strict=True))
    assert "X" not in picture, f"saved under (rows), loaded under (columns):\n{picture}"


def test_every_layout_saves_again_what_any_other_has_trained(tmp_path: Path) -> None:
    """In bf16, where main weights are saved too, and of a vocabulary that two tensor ranks do not divide."""
    trained, moved = tmp_path / "trained", tmp_path / "moved"
    for size, names in BY_WORLD.items():
        run_in_world(train_under, names, str(trained), processes=size)
    for size, names in BY_WORLD.items():
        run_in_world(move, names, str(trained), str(moved), processes=size)
    expected = {source: contents(trained / source) for source in LAYOUTS}
    assert {len(digests) for digests in expected.values()} == {4 * (3 + 4 * 6)}
    assert_all(lambda source, target: contents(moved / target / source) == expected[source])


def test_layouts_differ_by_rounding_only(pairs: Pairs) -> None:
    alone = pairs["1", "1"][0]["losses"]
    for target in LAYOUTS:
        np.testing.assert_allclose(pairs["1", target][0]["losses"], alone, rtol=2e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_ones_own_is_bit_exact(precision: str, tmp_path: Path) -> None:
    """bf16: from an asynchronous save, which two replicas write while their gradients are already reduced again."""
    bf16 = precision == "bf16"
    for size, names in BY_WORLD.items():
        for rank in run_in_world(_resume, names, str(tmp_path), bf16, processes=size):
            for name, (straight, continued) in rank.items():
                assert straight == continued, name


def _resume(names: list[str], folder: str, bf16: bool) -> dict[str, list[dict[str, Any]]]:
    return resume(names, folder, bf16=bf16, asynchronous=bf16)

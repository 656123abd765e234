"""Gathering every weight by itself while the model computes changes no kind of training, and resuming it nothing.

Without overlap every weight is whole before the pass begins: a weight that is used before it was waited for shows as
another loss here, or as Megatron's own complaint that a gather was never waited for. (That each use waits, by layout
and kind of kernels, is looked at in tests/model/test_gathering.py.)
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.bucket_runs import KINDS, LAYOUTS, all_curves
from tests.gloo_world import run_in_world


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Any]]]:
    """Losses that every rank of the two worlds saw."""
    folder = str(tmp_path_factory.mktemp("buckets"))
    small = run_in_world(all_curves, folder, ["DP2"], processes=2)
    large = run_in_world(all_curves, folder, ["TP2xDP2", "PP2xDP2"], processes=4)
    return [*small, *large]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_overlap_with_a_bucket_for_every_parameter_changes_nothing(name: str, kind: str, curves: Any) -> None:
    seen = [rank[name, kind] for rank in curves if (name, kind) in rank]
    assert len(seen) == LAYOUTS[name].world_size
    assert max(rank["buckets"] for rank in seen) > 5
    for rank in seen:
        assert rank["overlapped"]["losses"] == pytest.approx(rank["plain"]["losses"], rel=1e-6)
        assert rank["overlapped"]["norms"] == pytest.approx(rank["plain"]["norms"], rel=1e-5)
        assert len(set(rank["overlapped"]["losses"])) > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_resuming_with_a_bucket_for_every_parameter_is_bit_exact(name: str, kind: str, curves: Any) -> None:
    for rank in curves:
        if (name, kind) in rank:
            assert rank[name, kind]["resumed"] == rank[name, kind]["overlapped"]

"""No weight is read before the module that holds it is called, which is where its gather is waited for.

Every kind of kernels, attention, loss, recomputation and training, on every kind of rank. What goes wrong otherwise, on
real ranks, is in tests/engine/test_buckets.py.
"""

from __future__ import annotations

from tests.gloo_world import run_in_world
from tests.model.gathering_runs import LAYOUTS, MODELS, early_reads, early_reads_of_a_careless_model


def test_every_weight_is_waited_for_before_it_is_read() -> None:
    ((passes, early),) = run_in_world(early_reads, processes=1)
    assert early == {}
    assert passes == len(LAYOUTS) * 3 * (4 * (len(MODELS) - 1) + 1)


def test_a_weight_that_is_used_without_its_module_is_found() -> None:
    assert early_reads_of_a_careless_model() == ["0.weight in aten.clone.default"]

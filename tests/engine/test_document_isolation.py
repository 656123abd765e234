"""Isolated documents in one window lose exactly what they lose alone, under tensor and pipeline parallelism too."""

from __future__ import annotations

from functools import partial

import pytest

from megaphi.parallel.layout import ParallelLayout
from tests.engine.isolation_runs import losses_of_packed_and_separate_documents
from tests.gloo_world import run_in_world

LAYOUTS = [ParallelLayout(), ParallelLayout(tensor=2, sequence_parallel=True), ParallelLayout(pipeline=2)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_isolated_documents_do_not_see_each_other(layout: ParallelLayout) -> None:
    assert_isolated(layout)


@pytest.mark.parametrize("computed_by", [{"attention": "softmax"}, {"kernels": "reference"}], ids=str)
def test_isolation_does_not_depend_on_what_computes_it(computed_by: dict[str, str]) -> None:
    assert_isolated(ParallelLayout(), **computed_by)


def assert_isolated(layout: ParallelLayout, **computed_by: str) -> None:
    task = partial(losses_of_packed_and_separate_documents, layout, **computed_by)
    for isolated, separate, crossing in run_in_world(task, processes=layout.model_ranks):
        assert isolated == pytest.approx(separate, abs=1e-5)
        assert abs(crossing - separate) > 1e-3  # the boundaries are what makes the difference

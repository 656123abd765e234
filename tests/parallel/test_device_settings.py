"""Variables that CUDA reads once are set before torch is asked about a GPU; a user's own stay, and are commented on."""

from __future__ import annotations

import os

import pytest
import torch

from megaphi.log import logger
from megaphi.parallel.device_settings import CONNECTIONS, DETERMINISTIC, set_up_devices, warn_of_connections
from megaphi.parallel.layout import ParallelLayout
from tests.gloo_world import run_in_new_world
from tests.parallel.device_settings_runs import settings_at_first_touch


@pytest.mark.parametrize(
    ("layout", "deterministic", "connections"),
    [(ParallelLayout(tensor=2), True, "1"), (ParallelLayout(pipeline=2), False, None)],
    ids=str,
)
def test_ranks_set_variables_before_anything_touches_a_gpu(
    layout: ParallelLayout, deterministic: bool, connections: str | None
) -> None:
    expected = {CONNECTIONS: connections} | {
        name: DETERMINISTIC[name] if deterministic else None for name in DETERMINISTIC
    }
    for found in run_in_new_world(settings_at_first_touch, layout, deterministic, processes=2):
        assert found == {"first": expected, "torch": deterministic, "ranks": 2}


@pytest.mark.parametrize(
    ("tensor", "own", "said"),
    [
        (2, "8", "with layout.tensor above 1 only 1 lets collectives run beside products"),
        (1, "1", "with layout.tensor=1 it only holds up messages"),
        (2, "1", ""),
        (2, None, ""),
        (1, "32", ""),
    ],
)
def test_a_users_own_variable_stays(tensor: int, own: str | None, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda text, *values: lines.append(text % values))
    monkeypatch.delenv(CONNECTIONS, raising=False)
    if own is not None:
        monkeypatch.setenv(CONNECTIONS, own)
    set_up_devices(ParallelLayout(tensor=tensor), deterministic=False)
    warn_of_connections(ParallelLayout(tensor=tensor))
    assert os.environ.get(CONNECTIONS) == (own or ("1" if tensor > 1 else None))
    assert [said in line for line in lines] == [True] * bool(said)
    assert not torch.are_deterministic_algorithms_enabled()

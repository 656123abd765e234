"""Ranks of the tests of initial weights: how many are drawn, and what they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megaphi.engine.run_config import RunConfig
from tests.engine.layout_runs import tiny_run, weights_digest
from tests.engine.reshard_runs import state_digest
from tests.stages.stage_runs import stage_here


def weights_drawn(run: RunConfig) -> tuple[int, list[float]]:
    """(number of weights that a whole run draws, its losses)."""
    import pytest

    from megaphi.model import initialize

    drawn, draw = [], initialize._draw

    def counted(shape: tuple[int, ...], **how: Any) -> Any:
        drawn.append(shape)
        return draw(shape, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialize, "_draw", counted)
        found = stage_here(run)
    assert found["message"] is None, found["message"]
    return len(drawn), [record["loss"] for record in found["records"]]


def digests_of_ways_to_draw(layout: Any, precision: Any) -> list[str]:
    """Weights and optimizer state: drawn while building, drawn afterwards, by one thread and by three."""
    from megaphi.engine.model.training_model import build_training_model, draw_weights, whole_parameters
    from megaphi.engine.run_config import check
    from megaphi.model.initialize import initialize_weights
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.parallel.world import start_world

    run = replace(tiny_run(layout=layout), precision=precision)
    run = check(run, world_size=detect().world_size)
    world = start_world(run.layout, seed=run.seed)
    first = build_training_model(run, world)
    found = [state_digest(first)]
    later = build_training_model(run, world, draws=False)
    draw_weights(later)
    found.append(state_digest(later))
    weights = {weights_digest(first)}
    for threads in (1, 3):
        with whole_parameters(later):
            for module in later.modules:
                for parameter in module.parameters():
                    parameter.data.zero_()
            initialize_weights(later.modules, seed=run.seed, threads=threads)
        weights.add(weights_digest(later))
    assert len(weights) == 1
    return found

"""A fingerprint of the weights: the same however they are cut, another when one bit, one place or one name differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world

LAYOUTS = (
    ParallelLayout(),
    ParallelLayout(tensor=2, sequence_parallel=True),
    ParallelLayout(pipeline=2, virtual_pipeline=2),
    ParallelLayout(data=2),
    ParallelLayout(context=2),
)


def fingerprints(layouts: tuple[ParallelLayout, ...]) -> list[str]:
    """The fingerprint of the same initial weights under every layout; an odd vocabulary is padded under some."""
    from megaphi.engine.model.weights_fingerprint import weights_fingerprint
    from tests.engine.layout_runs import build

    shape = replace(TINY, vocabulary=255)
    return [weights_fingerprint(build(tiny_run(layout=layout, model=shape))) for layout in layouts]


def changes() -> dict[str, str]:
    """Fingerprints of weights that differ in one bit, in two places that are swapped, in nothing."""
    import torch

    from megaphi.engine.model.weights_fingerprint import weights_fingerprint
    from tests.engine.layout_runs import build

    model = build(tiny_run())
    (module,) = model.modules
    matrix = dict(module.named_parameters())["decoder.layers.1.mlp.linear_fc2.weight"].data
    found = {"as it is": weights_fingerprint(model)}
    bits = matrix.view(torch.int32)
    bits[3, 5] ^= 1
    found["one bit"] = weights_fingerprint(model)
    bits[3, 5] ^= 1
    matrix[[0, 1]] = matrix[[1, 0]].clone()
    found["two rows swapped"] = weights_fingerprint(model)
    matrix[[0, 1]] = matrix[[1, 0]].clone()
    found["as it was"] = weights_fingerprint(model)
    return found


def test_every_layout_has_the_same() -> None:
    (alone,) = run_in_world(fingerprints, LAYOUTS[:1], processes=1)[0]
    found = run_in_world(fingerprints, LAYOUTS[1:], processes=2)
    assert {value for rank in found for value in rank} == {alone}
    assert len(alone) == 32


def test_the_smallest_change_shows() -> None:
    (found,) = run_in_world(changes, processes=1)
    values: dict[str, Any] = dict(found)
    assert values.pop("as it was") == values["as it is"]
    assert len(set(values.values())) == 3

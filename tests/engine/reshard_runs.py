"""Ranks of the re-shard tests: save and continue under eight layouts, in worlds of one, two and four.

`cut` loads one state under a layout and saves it at once; `continue_from_all` goes on from all of these. `train_under`
makes a state of its own under every layout, and `move` saves each under each. `resume` is a run that saves in the
middle, and another that goes on from there. One world runs all layouts of its size.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from megaphi.data.batch import BatchShape
from megaphi.engine.model.optimizer import state_pieces
from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.saving.saver import Saver, save_checkpoint
from megaphi.engine.saving.shards import load_checkpoint
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, advance, build, tiny_run, weights_digest

LAYOUTS = {
    "1": ParallelLayout(),
    "TP2+SP": ParallelLayout(tensor=2, sequence_parallel=True),
    "PP2": ParallelLayout(pipeline=2),
    "PP2xVPP2": ParallelLayout(pipeline=2, virtual_pipeline=2),
    "DP2": ParallelLayout(data=2),
    "CP2": ParallelLayout(context=2),
    "TP2xPP2": ParallelLayout(tensor=2, pipeline=2, stage_layers=(3, 1)),
    "TP2xDP2": ParallelLayout(tensor=2, data=2),
}
FIRST, NEXT = 3, 3
"""Steps before the save, and after it."""


def world_of(name: str) -> int:
    return LAYOUTS[name].model_ranks * (LAYOUTS[name].data or 1)


UNEVEN = replace(TINY, vocabulary=255)
"""A model with a vocabulary that two tensor ranks do not divide."""


def run_under(name: str, folder: str, *, bf16: bool = False, asynchronous: bool = False) -> RunConfig:
    run = tiny_run(
        folder=folder,
        layout=LAYOUTS[name],
        batch=BatchShape(sequence_length=32, global_batch=8, micro_batch=4),
        saving=Saving(asynchronous=asynchronous),
    )
    return replace(run, precision=NumericPrecision(parameters="bfloat16")) if bf16 else run


def state_digest(model: TrainingModel) -> str:
    """SHA-256 of the weights and moments that this rank holds."""
    digest = hashlib.sha256(weights_digest(model).encode())
    with whole_parameters(model):
        for module in model.modules:
            for _, parameter in sorted(module.named_parameters()):
                owned = state_pieces(model.optimizer, parameter)
                for _, values in sorted(owned.tensors.items()) if owned is not None else ():
                    digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


def train_first(folder: str) -> None:
    model = build(run_under("1", folder))
    advance(model, first=0, steps=FIRST)
    save_checkpoint(model, {"step": FIRST})


def cut(names: list[str], source: str, folder: str) -> None:
    """Load `source` under each layout and save it in `folder/NAME` as it is."""
    for name in names:
        model = build(run_under(name, f"{folder}/{name}"))
        load_checkpoint(model, source)
        save_checkpoint(model, {"step": FIRST})


def train_under(names: list[str], folder: str) -> None:
    """A state made under each layout, in bf16: `folder/NAME`."""
    for name in names:
        model = build(replace(run_under(name, f"{folder}/{name}", bf16=True), model=UNEVEN))
        advance(model, first=0, steps=FIRST)
        save_checkpoint(model, {"step": FIRST})


def move(names: list[str], trained: str, folder: str) -> None:
    """Load what each layout has trained under each of `names`, and save it in `folder/NAME/TRAINED` as it is.

    All are loaded into one model: what a load leaves as it was would be saved in the next one's place.
    """
    for name in names:
        model = build(replace(run_under(name, "unused", bf16=True), model=UNEVEN))
        for source in LAYOUTS:
            load_checkpoint(model, f"{trained}/{source}")
            run = replace(model.run, folder=f"{folder}/{name}/{source}")
            save_checkpoint(replace(model, run=run), {"step": FIRST})


def continue_from_all(names: list[str], folder: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(saved under, loaded under) -> the next losses, and the digest of this rank's state after them.

    All are loaded into one model: what a load leaves as it was would show in the next one.
    """
    found = {}
    for target in names:
        model = build(run_under(target, "unused"))
        for source in LAYOUTS:
            load_checkpoint(model, f"{folder}/{source}")
            losses = advance(model, first=FIRST, steps=NEXT)["losses"]
            found[source, target] = {"losses": losses, "state": state_digest(model)}
    return found


def resume(names: list[str], folder: str, *, bf16: bool, asynchronous: bool) -> dict[str, list[dict[str, Any]]]:
    """Under each layout: a run that saves in the middle, and one that continues from there."""
    found = {}
    for name in names:
        run = run_under(name, f"{folder}/{name}", bf16=bf16, asynchronous=asynchronous)
        model = build(run)
        with Saver(model) as saver:
            advance(model, first=0, steps=FIRST)
            saver.save({"step": FIRST}, wait=not asynchronous)
            straight = advance(model, first=FIRST, steps=NEXT)
        again = build(run)
        load_checkpoint(again, run.folder)
        continued = advance(again, first=FIRST, steps=NEXT)
        found[name] = [{**curve, "state": state_digest(one)} for curve, one in ((straight, model), (continued, again))]
    return found

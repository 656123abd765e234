"""Ranks of the tests of tied embeddings: one weight, of which a last pipeline stage holds a copy.

`start` makes a state on one process. `all_curves` trains under each layout from the start, resumes what it has saved
half-way, goes on from `start`'s state, and saves that again as it is. One world runs all layouts of its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as distributed

from megaphi.checkpoint.format import CheckpointReader
from megaphi.engine.model.optimizer import state_pieces
from megaphi.engine.model.training_model import TrainingModel, build_training_model, whole_parameters
from megaphi.engine.run_config import RunConfig
from megaphi.engine.saving.saver import save_checkpoint
from megaphi.engine.saving.shards import load_checkpoint, load_weights
from megaphi.errors import InputError
from megaphi.model.initialize import parameter_shares
from megaphi.model.weights import EMBEDDING, OUTPUT
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import World, start_world
from tests.engine.layout_runs import TINY, advance
from tests.engine.reshard_runs import LAYOUTS as COMMON
from tests.engine.reshard_runs import run_under, state_digest

LAYOUTS = {**COMMON, "PP2xDP2": ParallelLayout(pipeline=2, data=2)}
IN_BF16 = ("PP2", "PP2xDP2")
TIED = replace(TINY, vocabulary=255, tied_embeddings=True)
"""A model with a vocabulary that two tensor ranks do not divide."""
FIRST, NEXT = 2, 3
"""Steps before the save, and after it."""


def tied_run(name: str, folder: str, *, bf16: bool = False) -> RunConfig:
    """With a bucket for every parameter: the optimizer's parts of the two copies must be cut alike all the same."""
    run = run_under("1", folder, bf16=bf16)
    model = replace(TIED, loss_chunk_tokens=20) if name in ("PP2xDP2", "DP2") else TIED
    return replace(run, layout=LAYOUTS[name], model=model, bucket_parameters=1)


def start(folder: str) -> list[float]:
    run = tied_run("1", folder)
    model = build_training_model(run, start_world(run.layout, seed=run.seed))
    advance(model, first=0, steps=FIRST)
    save_checkpoint(model, {"step": FIRST})
    return advance(model, first=FIRST, steps=NEXT)["losses"]


def change_ties(source: str, folder: str) -> dict[str, Any]:
    """Load a tied checkpoint in an untied run, an untied one in a tied run, and an old one."""
    tied, free = tied_run("1", f"{folder}/tied"), tied_run("1", f"{folder}/free")
    free = replace(free, model=replace(free.model, tied_embeddings=False))
    world = start_world(tied.layout, seed=tied.seed)
    model = build_training_model(free, world)
    load_weights(model, CheckpointReader(source))
    weights = dict(model.modules[0].named_parameters())
    is_copy = torch.equal(weights[OUTPUT], weights[EMBEDDING])
    advance(model, first=0, steps=1)
    trains_by_itself = not torch.equal(weights[OUTPUT], weights[EMBEDDING])
    save_checkpoint(model, {"step": 1})
    old = CheckpointReader(free.folder)
    del old.config["model"]["tied_embeddings"]  # of before there was such a field
    load_weights(build_training_model(free, world), old)
    return {
        "untied": (is_copy, trains_by_itself),
        "resumed": _refusal(load_checkpoint, model, source),
        "tied": _refusal(load_weights, build_training_model(tied, world), old),
    }


def _refusal(function: Callable[..., Any], *arguments: Any) -> str:
    try:
        function(*arguments)
    except InputError as error:
        return str(error)
    return ""


def all_curves(names: Sequence[str], source: str, folder: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        run = tied_run(name, f"{folder}/{name}/own")
        world = start_world(run.layout, seed=run.seed)  # groups cost more than everything else here
        found[name] = _resumed(run, world)
        if name in IN_BF16:
            half = tied_run(name, f"{folder}/{name}/bf16", bf16=True)
            found[name]["bf16"] = _resumed(half, world)["states"]
        other = build_training_model(tied_run(name, f"{folder}/{name}/moved"), world)
        load_checkpoint(other, source)
        save_checkpoint(other, {"step": FIRST})
        found[name]["moved"] = advance(other, first=FIRST, steps=NEXT)["losses"]
    return found


def _resumed(run: RunConfig, world: World) -> dict[str, Any]:
    """Losses, and what the rank holds at the end: straight on, and resumed."""
    model = build_training_model(run, world)
    initial = copies(model)
    curves = advance(model, first=0, steps=FIRST)
    save_checkpoint(model, {"step": FIRST})
    following = advance(model, first=FIRST, steps=NEXT)
    again = build_training_model(run, world)
    load_checkpoint(again, run.folder)
    advance(again, first=FIRST, steps=NEXT)
    return {
        "losses": curves["losses"] + following["losses"],
        "norms": curves["norms"] + following["norms"],
        "states": (state_digest(model), state_digest(again)),
        "copies": (initial, copies(model)),
    }


@torch.no_grad()
def copies(model: TrainingModel) -> list[Any]:
    """By rank: what it holds of the embedding, by its place: (first element, end, values), and of its moments."""
    mine = []
    with whole_parameters(model):
        for module in model.modules:
            for share in parameter_shares(module):
                if share.name == EMBEDDING:
                    owned = state_pieces(model.optimizer, share.parameter)
                    parts = (
                        None
                        if owned is None
                        else (owned.start, {name: values.tolist() for name, values in owned.tensors.items()})
                    )
                    mine.append((share.is_first_copy, share.offset, share.parameter.flatten().tolist(), parts))
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, mine)
    return [held for rank in everywhere for held in rank]

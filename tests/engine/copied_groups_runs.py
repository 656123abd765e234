"""Ranks of the tests of tensor ranks that do not divide the key-value groups: several layouts in one world.

FORTY has Phi-4's 40 heads in 10 groups, of which ranks 0 and 1 of four share one; DEEP has more layers of it, for
interleaved stages; LOPSIDED has a rank between two groups and others within one, so that some have room that nothing
fills.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as distributed
from megatron.core import parallel_state

from megaphi.data.batch import BatchShape
from megaphi.engine.model.training_model import TrainingModel, whole_parameters
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.saving.saver import save_checkpoint
from megaphi.engine.saving.shards import load_checkpoint
from megaphi.model.architecture import Architecture
from megaphi.model.copied_groups.exchange import Copies, copies_of, fetch_copies
from megaphi.model.initialize import ParameterShare, parameter_shares
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY, advance, build, tiny_run
from tests.engine.reshard_runs import state_digest

FORTY = Architecture(layers=2, hidden=48, feed_forward=80, heads=40, key_value_groups=10, head_size=4, vocabulary=256)
DEEP = replace(FORTY, layers=5)
LOPSIDED = replace(TINY, layers=2, feed_forward=96)
MODELS = {"forty": FORTY, "deep": DEEP, "lopsided": LOPSIDED}

LAYOUTS = {
    "1": ParallelLayout(),
    "TP2": ParallelLayout(tensor=2),
    "TP4": ParallelLayout(tensor=4),
    "TP4xPP2+SP": ParallelLayout(tensor=4, pipeline=2, sequence_parallel=True),
    "TP4xDP2": ParallelLayout(tensor=4, data=2),
    "TP4xCP2+SP": ParallelLayout(tensor=4, context=2, sequence_parallel=True),
    "TP8+SP": ParallelLayout(tensor=8, sequence_parallel=True),
}
INTERLEAVED = ParallelLayout(tensor=4, pipeline=2, virtual_pipeline=2, stage_layers=(1, 2, 1, 1))
"""For DEEP."""
FIRST, NEXT = 2, 2
"""Steps before a save, and after it."""


def world_of(name: str) -> int:
    return LAYOUTS[name].model_ranks * (LAYOUTS[name].data or 1)


def run_of(layout: ParallelLayout, *, folder: str = "unused", model: str = "forty", **fields: Any) -> RunConfig:
    batch = BatchShape(sequence_length=16, global_batch=fields.pop("global_batch", 4), micro_batch=1)
    run = tiny_run(folder=folder, layout=layout, model=MODELS[model], batch=batch)
    if fields.pop("bf16", False):
        run = replace(run, precision=NumericPrecision(parameters="bfloat16"))
    recompute = fields.pop("recompute", "none")
    return replace(run, model=replace(run.model, **fields), recompute=recompute, bucket_parameters=5_000)


def train_under(cases: dict[str, tuple[ParallelLayout, dict[str, Any]]], folder: str | None) -> dict[str, Any]:
    """Train in every layout, and save: curves, and names of weights whose copies are not those of their owner."""
    found = {}
    for name, (layout, fields) in cases.items():
        model = build(run_of(layout, folder=f"{folder}/{name}", **fields))
        different: list[str] = []
        curves = advance(model, first=0, steps=FIRST)
        for step in range(FIRST, FIRST + NEXT):
            more = advance(model, first=step, steps=1)
            curves = {key: curves[key] + more[key] for key in curves}
            different += copies_that_differ(model)
        if folder is not None:
            save_checkpoint(model, {"step": FIRST + NEXT})
        found[name] = {**curves, "different": different, "gradients_of_copies": gradients_of_copies(model)}
    return found


def copies_that_differ(model: TrainingModel) -> list[str]:
    """Names of weights whose copies are not bits that their owners have, when the next pass has fetched them."""
    found = []
    with whole_parameters(model):
        for module in model.modules:
            for share in parameter_shares(module):
                if (copies := copies_of(share.parameter)) is not None:
                    fetch_copies(share.parameter)
                    if not _is_equal_to_owners(share, copies):
                        found.append(share.name)
    return found


def _is_equal_to_owners(share: ParameterShare, copies: Copies) -> bool:
    group: Any = parallel_state.get_tensor_model_parallel_group()
    of_all = [torch.empty_like(share.parameter) for _ in range(group.size())]
    distributed.all_gather(of_all, share.parameter.detach(), group=group)
    if copies.owner is None:
        return True
    assert copies.first is not None
    cut = share.weight.head_cut(tensor=group.size())
    assert cut is not None
    start = cut.queries(copies.owner)[0] * share.weight.rows_per_head
    own = share.parameter[copies.first : copies.first + copies.rows]
    return torch.equal(own, of_all[copies.owner][start : start + copies.rows]) and bool(own.any())


def gradients_of_copies(model: TrainingModel) -> list[float]:
    """Largest gradient of what this rank holds and does not own: copies and room that nothing fills."""
    found = []
    for module in model.modules:
        for share in parameter_shares(module):
            parameter: Any = share.parameter
            rest = parameter.main_grad.view(-1)[share.numel :]
            if rest.numel():
                found.append(float(rest.abs().max()))
    return found


def cut(layouts: dict[str, ParallelLayout], source: str, folder: str, model: str = "forty") -> None:
    """Load `source` under each layout and save it in `folder/NAME` as it is."""
    for name, layout in layouts.items():
        built = build(run_of(layout, folder=f"{folder}/{name}", model=model))
        load_checkpoint(built, source)
        save_checkpoint(built, {"step": FIRST})


def continue_from_all(names: list[str], sources: list[str], folder: str) -> dict[tuple[str, str], Any]:
    """(saved under, loaded under) -> the next losses, and the digest of this rank's state after them."""
    found = {}
    for target in names:
        model = build(run_of(LAYOUTS[target]))
        for source in sources:
            load_checkpoint(model, f"{folder}/{source}")
            losses = advance(model, first=FIRST, steps=NEXT)["losses"]
            found[source, target] = {"losses": losses, "state": state_digest(model)}
    return found


def resume(names: list[str], folder: str) -> dict[str, list[dict[str, Any]]]:
    """Under each layout, in bf16: a run that saves in the middle and goes on, and one that continues from there."""
    found = {}
    for name in names:
        model = build(run_of(LAYOUTS[name], folder=f"{folder}/{name}", bf16=True))
        advance(model, first=0, steps=FIRST)
        save_checkpoint(model, {"step": FIRST})
        straight = {**advance(model, first=FIRST, steps=NEXT), "state": state_digest(model)}
        again = build(model.run)
        load_checkpoint(again, model.run.folder)
        found[name] = [straight, {**advance(again, first=FIRST, steps=NEXT), "state": state_digest(again)}]
    return found

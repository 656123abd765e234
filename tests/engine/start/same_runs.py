"""Ranks that read or write differently: their folders, data and weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.held_out import HeldOutRows, HeldOutSource
from megaphi.data.packed.rows import PackedRows
from megaphi.engine.retention import Saving
from megaphi.engine.start import run_folder
from megaphi.engine.start.run_folder import start_run
from megaphi.engine.start.same_run import agree_on_data, agree_on_weights
from megaphi.errors import InputError
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.packed_task import row_order
from tests.engine.layout_runs import tiny_run


def said(action: Callable[[], object]) -> str | None:
    try:
        action()
    except InputError as error:
        return f"{type(error).__name__}: {error}"
    return None


def all_cases(folder: str) -> dict[str, Any]:
    """Every case, one after the other, in one world of two."""
    rank = int(os.environ["RANK"])
    run_folder.SECONDS_TO_APPEAR = 0.5
    run = tiny_run(folder=f"{folder}/shared", layout=ParallelLayout(data=2), saving=Saving())
    checkpoints = Path(run.folder, "checkpoints")
    checkpoints.mkdir(parents=True, exist_ok=True)
    for left in ("../.rank_0.8986197a0ee4385b", f".rank_{rank}.8986197a0ee4385b", ".rank_of_mine.txt"):
        (checkpoints / left).write_text("")
    world = start_run(run)
    found: dict[str, Any] = {"tree": sorted(path.name for path in Path(folder, "shared").iterdir())}
    found["checkpoints' tree"] = [path.name for path in checkpoints.iterdir()]
    alone = replace(run, folder=f"{folder}/of_rank_{rank}")
    found["not shared"] = said(lambda: start_run(alone))
    Path(folder, "occupied").mkdir(exist_ok=True)
    torch.distributed.barrier()
    if rank == 1:
        Path(folder, "occupied", "fallback").write_text("")
    torch.distributed.barrier()
    both = replace(run, folder=f"{folder}/occupied")
    found["fallback"] = said(
        lambda: start_run(replace(both, saving=Saving(fallback_folder=f"{folder}/occupied/fallback")))
    )
    if rank == 0:
        Path(folder, "occupied", "checkpoints").rmdir()
        Path(folder, "occupied", "checkpoints").write_text("")
    torch.distributed.barrier()
    found["checkpoints"] = said(lambda: start_run(both))
    same = rows(run, "a")
    held_out = HeldOutSource(rows=same.epochs, make_batch=same.make_batch)
    other = HeldOutRows(sources={"pairs": held_out}, content=str(rank))
    found["same data"] = said(lambda: agree_on_data(world, same, None))
    found["other data"] = said(lambda: agree_on_data(world, same, other))
    found["same weights"] = said(lambda: agree_on_weights(world, cast(Any, Weights(run, 1.0))))
    for case, weight in (("other weights", "output_layer"), ("other norm", "final_layernorm"), ("other layer", "fc1")):
        weights = cast(Any, Weights(run, float(rank), weight=weight))
        found[case] = said(lambda weights=weights: agree_on_weights(world, weights))
    dtype = (torch.float32, torch.bfloat16)[rank]
    found["other type"] = said(lambda: agree_on_weights(world, cast(Any, Weights(run, 1.0, dtype=dtype))))
    return found


def rows(run: Any, content: str) -> PackedRows:
    epochs = PackedEpochs([3, 4, 5], capacity=run.batch.sequence_length, seed=0)
    order = row_order(run, "pairs", steps=2)
    return PackedRows(name="pairs", epochs=epochs, order=order, make_batch=None, content=content)  # pyright: ignore


class Weights:
    """A model of another format: everything is one number, or of one weight's rows from the second on another."""

    def __init__(self, run: Any, changed: float, *, weight: str = "output_layer", dtype: Any = torch.float32) -> None:
        self.architecture, self.carried = run.model, {}
        self._changed, self._weight, self._dtype = changed, weight, dtype

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype

    def rows(self, name: str, start: int, end: int) -> torch.Tensor:
        values = torch.full((end - start, 4), 0.5)
        is_last = end == self.architecture.vocabulary
        values[max(1 - start, 0) : max(end - start - is_last, 0)] = self._changed if self._weight in name else 0.5
        return values

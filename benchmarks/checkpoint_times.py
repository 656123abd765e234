"""Seconds to save and to load a run of about 60M parameters, and how long training stands still for it.

One process, fp32 weights and two Adam moments (0.7 GB), all sides with the same tensors, in turn in every round, on the
same disk. Every save forces its bytes to the disk; only ours also hashes them and, unless told otherwise, reads all of
them back from the disk before the checkpoint gets its name. Loading fills the tensors again, from the page cache, and
checks hashes where there are any. `stall` is what an asynchronous save keeps training waiting; `save` is until it ends.

    python benchmarks/checkpoint_times.py --folder /scratch --rounds 5 --write
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from machine import machine, settled
from results_file import append_rows
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import async_save as dcp_async_save
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from megaphi.checkpoint.versions import short_commit, versions
from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.engine.model.training_model import TrainingModel, build_training_model
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import TrainingLength
from megaphi.engine.saving.latest_checkpoint import newest_checkpoint
from megaphi.engine.saving.saver import Saver
from megaphi.engine.saving.shards import load_checkpoint, pieces_of
from megaphi.log import progress_bar
from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.world import start_world
from megaphi.stages.pretrain import Pretrain

RESULTS = Path(__file__).parent / "results" / "checkpoint_times.csv"
MODEL = Architecture(
    layers=8, hidden=512, feed_forward=1792, heads=8, key_value_groups=2, head_size=64, vocabulary=32_768
)
COLUMNS = "date device commit torch megatron-core parameters side save_s stall_s load_s save_ratio load_ratio"
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    save: float
    stall: float
    load: float | None


Side = Callable[[Path], Measured]
"""Saves into an empty folder and loads from it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="append to benchmarks/results/checkpoint_times.csv")
    arguments = parser.parse_args()
    model = build_model()
    state = {piece.key: piece.values for piece in pieces_of(model)}
    print(f"{MODEL.parameters:,} parameters, {sum(values.nbytes for values in state.values()) / 1e6:,.0f} MB")
    sides = all_sides(model, state)
    rounds: list[dict[str, Measured]] = []
    with progress_bar(total=arguments.rounds * len(sides), unit="save") as bar:
        for _ in range(arguments.rounds):
            found = {}
            for name, side in sides.items():
                with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                    os.sync()
                    found[name] = side(Path(folder) / "checkpoint")
                bar.update()
            rounds.append(found)
    rows = {name: summary(name, rounds) for name in sides}
    print(f"{'side':<38} {'save s':>8} {'stall s':>8} {'load s':>8} {'save/ours':>10} {'load/ours':>10}")
    for name, row in rows.items():
        print(f"{name:<38} " + " ".join(f"{value:>8}" for value in row[:3]) + "".join(f"{one:>11}" for one in row[3:]))
    if arguments.write:
        append(rows)


def build_model() -> TrainingModel:
    run = RunConfig(
        recipe="checkpoint_times",
        folder="unused",
        training=TrainingLength(steps=10),
        layout=ParallelLayout(data=1),
        model=MODEL,
        batch=BatchShape(sequence_length=64, global_batch=1),
        task=Pretrain(mixture=Mixture(sources=(Source(name="text", weight=1.0, paths=("unused",)),))),
        precision=NumericPrecision(parameters="float32"),
    )
    return build_training_model(run, start_world(run.layout, seed=run.seed))


def all_sides(model: TrainingModel, state: State) -> dict[str, Side]:
    """Ours first: the ratios are to it."""
    memory: dict[str, Saver] = {}
    return {
        "megaphi": lambda folder: ours(model, folder, Saving(asynchronous=False)),
        "megaphi, not read back": lambda folder: ours(model, folder, Saving(asynchronous=False, verify=False)),
        "megaphi, asynchronous": lambda folder: ours_beside(model, folder, memory),
        "torch.distributed.checkpoint": lambda folder: torch_checkpoint(state, folder),
        "torch.distributed.checkpoint, async": lambda folder: torch_checkpoint_beside(state, folder),
        "megatron dist_checkpointing": lambda folder: megatron(state, folder, beside=False),
        "megatron dist_checkpointing, async": lambda folder: megatron(state, folder, beside=True),
        "torch.save": lambda folder: plain(state, folder),
    }


def _run_in(model: TrainingModel, folder: Path, saving: Saving) -> TrainingModel:
    run = dataclasses.replace(model.run, folder=str(folder), saving=saving)
    return dataclasses.replace(model, run=run)


def ours(model: TrainingModel, folder: Path, saving: Saving) -> Measured:
    there = _run_in(model, folder, saving)
    with Saver(there) as saver:
        save = seconds(lambda: saver.save({"step": 1}, wait=True))
    return Measured(save=save, stall=save, load=seconds(lambda: load_ours(there, folder)))


def load_ours(model: TrainingModel, folder: Path) -> None:
    """As a run does that resumes: find, compare hashes, fill."""
    found = newest_checkpoint([folder / "checkpoints"], model.world, verify=model.run.saving.verify)
    assert found is not None
    load_checkpoint(model, found)


def ours_beside(model: TrainingModel, folder: Path, memory: dict[str, Saver]) -> Measured:
    """Our saver in a run that has saved before: its host memory is there."""
    there = _run_in(model, folder, Saving())
    began = time.perf_counter()
    with Saver(there) as saver:
        if memory:
            saver._memory = memory["last"]._memory
        memory["last"] = saver
        stall = seconds(lambda: saver.save({"step": 1}))
    save = time.perf_counter() - began
    return Measured(save=save, stall=stall, load=seconds(lambda: load_ours(there, folder)))


def torch_checkpoint(state: State, folder: Path) -> Measured:
    save = seconds(lambda: dcp_save(dict(state), checkpoint_id=folder))
    return Measured(save=save, stall=save, load=seconds(lambda: dcp_load(dict(state), checkpoint_id=folder)))


def torch_checkpoint_beside(state: State, folder: Path) -> Measured:
    began = time.perf_counter()
    future: Any = dcp_async_save(dict(state), checkpoint_id=folder)
    stall = time.perf_counter() - began
    future.result()
    return Measured(save=time.perf_counter() - began, stall=stall, load=None)


def megatron(state: State, folder: Path, *, beside: bool) -> Measured:
    """The same tensors as Megatron's own sharded ones, in the format that any layout loads."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

    def sharded() -> Any:
        return {key: ShardedTensor.from_rank_offsets(key, values) for key, values in state.items()}

    folder.mkdir()
    began = time.perf_counter()
    request: Any = dist_checkpointing.save(sharded(), str(folder), async_sharded_save=beside)
    if not beside:
        save = time.perf_counter() - began
        return Measured(save=save, stall=save, load=seconds(lambda: fill(state, dist_checkpointing, sharded, folder)))
    calls = AsyncCallsQueue()
    calls.schedule_async_request(request)
    stall = time.perf_counter() - began
    while not calls.maybe_finalize_async_calls(blocking=True):
        time.sleep(0.01)
    return Measured(save=time.perf_counter() - began, stall=stall, load=None)


def fill(state: State, dist_checkpointing: Any, sharded: Callable[[], Any], folder: Path) -> None:
    for key, values in dist_checkpointing.load(sharded(), str(folder)).items():
        state[key].copy_(values)


def plain(state: State, folder: Path) -> Measured:
    """No checkpoint of a run that has more than one process, but what a disk and a pickle take."""

    def save() -> None:
        folder.mkdir()
        with open(folder / "state.pt", "wb") as file:
            torch.save({key: values.clone() for key, values in state.items()}, file)
            file.flush()
            os.fsync(file.fileno())

    return Measured(save=(taken := seconds(save)), stall=taken, load=None)


def seconds(action: Callable[[], object]) -> float:
    settled()
    began = time.perf_counter()
    action()
    settled()
    return time.perf_counter() - began


def summary(name: str, rounds: list[dict[str, Measured]]) -> list[str]:
    """Medians over the rounds, of the ratios too."""
    own = [found[name] for found in rounds]
    loads = [one.load for one in own if one.load is not None]
    ratios = [found[name].save / found["megaphi"].save for found in rounds]
    load_ratios = [
        one.load / found["megaphi"].load
        for found in rounds
        if (one := found[name]).load is not None and found["megaphi"].load
    ]
    return [
        f"{statistics.median(one.save for one in own):.2f}",
        f"{statistics.median(one.stall for one in own):.3f}",
        f"{statistics.median(loads):.2f}" if loads else "",
        f"{statistics.median(ratios):.2f}",
        f"{statistics.median(load_ratios):.2f}" if load_ratios else "",
    ]


def append(rows: dict[str, list[str]]) -> None:
    found = versions()
    stamp = [date.today().isoformat(), machine(), short_commit(7)]
    stamp += [found["torch"], found["megatron-core"], str(MODEL.parameters)]
    append_rows(RESULTS, COLUMNS.split(), ([*stamp, name, *row] for name, row in rows.items()))


if __name__ == "__main__":
    main()

"""Ranks of the saver's tests: saves that are watched, delayed, corrupted, and refused by their storage.

Each case takes a folder of its own, runs in a world of two, and returns what the test then looks at. All are in bf16
with two replicas, where the optimizer keeps an fp32 copy.
"""

from __future__ import annotations

import ctypes
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as distributed

from megaphi.checkpoint.format import rank_file
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import NumericPrecision
from megaphi.engine.saving import writer as checkpoint_writer
from megaphi.engine.saving.saver import Saver, save_checkpoint
from megaphi.engine.saving.shards import load_checkpoint
from megaphi.engine.saving.snapshot import HostMemory
from megaphi.errors import RunFailed
from megaphi.log import logger
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import advance, build, contents, tiny_run

QUICK = Saving(retry_seconds=0.01, attempts=2)
DATA_2: dict[str, Any] = {"data": 2}


def start(folder: str, saving: Saving = QUICK, layout: dict[str, Any] = DATA_2) -> TrainingModel:
    bf16 = NumericPrecision(parameters="bfloat16")
    return build(tiny_run(folder=folder, layout=ParallelLayout(**layout), saving=saving, precision=bf16))


def tree(folder: str | Path) -> list[str]:
    """Names in a folder, `latest` with what it says."""
    names = sorted(path.name for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
    return [f"latest -> {(Path(folder) / name).read_text().strip()}" if name == "latest" else name for name in names]


@contextmanager
def listening() -> Iterator[list[str]]:
    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    logger.addFilter(keep)
    try:
        yield lines
    finally:
        logger.removeFilter(keep)


@contextmanager
def changed_writing(before: Callable[..., object], after: Callable[[Path], object] = lambda _: None) -> Iterator[None]:
    """Run something before and after a rank's file is written."""
    original = checkpoint_writer.write_rank_file

    def write(folder: Path, pieces: Any, *, rank: int, save_id: str, step: int) -> Any:
        before()
        record = original(folder, pieces, rank=rank, save_id=save_id, step=step)
        after(folder / rank_file(rank))
        return record

    with mock.patch.object(checkpoint_writer, "write_rank_file", write):
        yield


def ended(saver: Saver) -> None:
    """Wait until the save on its way has ended on every rank."""
    if saver._pending is not None:
        saver._pending.join()
    saver.poll()
    distributed.barrier()


def training_goes_on(folder: str) -> dict[str, Any]:
    """Two more steps are taken before the first byte of step 3 is written."""
    gate = threading.Event()
    model = start(folder)
    with changed_writing(lambda: gate.wait(30)), Saver(model) as saver:
        before = advance(model, first=0, steps=3)["losses"]
        answer = saver.save({"step": 3})
        meanwhile = advance(model, first=3, steps=2)["losses"]
        metrics = saver.metrics(5)
        was_published = Path(folder, "checkpoints", "latest").exists()
        gate.set()
    control = start(f"{folder}_control", replace(QUICK, asynchronous=False))
    straight = advance(control, first=0, steps=3)["losses"]
    save_checkpoint(control, {"step": 3})
    straight += advance(control, first=3, steps=2)["losses"]
    again = start(folder)
    load_checkpoint(again, folder)
    return {
        "answer": answer,
        "was_published": was_published,
        "metrics": metrics,
        "saved_step": saver.saved_step,
        "losses": [before + meanwhile, straight],
        "continued": [advance(again, first=3, steps=2)["losses"], straight[3:]],
        "contents": [contents(folder), contents(f"{folder}_control")],
        "tree": tree(f"{folder}/checkpoints"),
    }


def storage_fails(folder: str) -> dict[str, Any]:
    """The usual place is a file at first, and then works."""
    usual, fallback = Path(folder, "checkpoints"), f"{folder}/fallback"
    model = start(folder, replace(QUICK, fallback_folder=fallback))
    if model.world.is_main:
        usual.parent.mkdir(parents=True)
        usual.write_text("in the way")
    distributed.barrier()
    with listening() as log, Saver(model) as saver:
        advance(model, first=0, steps=1)
        saver.save({"step": 1})
        ended(saver)
        failing = {"metrics": saver.metrics(1), "tree": tree(fallback), "log": [*log]}
        if model.world.is_main:
            usual.unlink()
        saver.save({"step": 2}, wait=True)
        distributed.barrier()
        return {"failing": failing, "usual": tree(usual), "fallback": tree(fallback)}


def gives_up(folder: str) -> dict[str, Any]:
    """Nothing can be written: training goes on, and only a last save ends it."""
    model = start(folder, replace(QUICK, train_unsaved=True))
    if model.world.is_main:
        Path(folder).mkdir(parents=True)
        Path(folder, "checkpoints").write_text("in the way")
    distributed.barrier()
    with listening() as log, Saver(model, saved_step=7) as saver:
        saver.save({"step": 8})
        ended(saver)
        losses = advance(model, first=8, steps=1)["losses"]
        metrics, message = saver.metrics(9), None
        try:
            saver.save({"step": 9}, wait=True)
        except RunFailed as error:
            message = str(error)
    return {"losses": losses, "metrics": metrics, "message": message, "log": log, "tree": tree(folder)}


def first_fails(folder: str, *, asynchronous: bool = True) -> dict[str, Any]:
    """A run that goes on from step 7 has its first save; rank 1 learns of the failure later than rank 0."""
    model, gate = start(folder, replace(QUICK, attempts=1, asynchronous=asynchronous)), threading.Event()
    if model.world.is_main:
        Path(folder).mkdir(parents=True)
        Path(folder, "checkpoints").write_text("in the way")
    distributed.barrier()
    steps, message = [], None
    try:
        with _late_end(gate if asynchronous and model.world.rank == 1 else None), Saver(model, saved_step=7) as saver:
            for step in range(8, 40):
                steps.append(step)
                if step == 10:
                    gate.set()
                if step == 8:
                    saver.save({"step": 8})
                advance(model, first=step, steps=1)
                saver.metrics(step)
                saver.check_first()
    except RunFailed as error:
        message = str(error)
    return {"steps": steps, "message": message}


def first_fails_at_once(folder: str) -> dict[str, Any]:
    """As above without asynchronous saving: nobody has to wait for anybody."""
    return first_fails(folder, asynchronous=False)


@contextmanager
def _late_end(gate: threading.Event | None) -> Iterator[None]:
    """A save ends only when the gate is open."""
    original = checkpoint_writer.CheckpointWriter.write

    def write(self: Any, job: Any) -> Any:
        outcome = original(self, job)
        if gate is not None:
            gate.wait(30)
        return outcome

    with mock.patch.object(checkpoint_writer.CheckpointWriter, "write", write):
        yield


def read_only(folder: str) -> dict[str, Any]:
    """The folder loses its write permission during the run, and gets it back."""
    model, checkpoints = start(folder, replace(QUICK, attempts=1)), Path(folder, "checkpoints")
    save_checkpoint(model, {"step": 1})
    with listening() as log, Saver(model, saved_step=1) as saver:
        saver.save({"step": 1}, wait=True)
        with without_permissions(checkpoints):
            saver.save({"step": 2})
            ended(saver)
        failures = saver.failures
        saver.save({"step": 3}, wait=True)
    return {"failures": failures, "log": log, "tree": tree(checkpoints)}


@contextmanager
def without_permissions(folder: Path) -> Iterator[None]:
    """Nobody may write to a folder: not the superuser either, who is made an ordinary user for files."""
    libc, nobody, is_root = ctypes.CDLL(None), 65534, os.geteuid() == 0
    folder.chmod(0o555)
    distributed.barrier()
    if is_root:
        libc.setfsuid(nobody)  # of this thread and those that it starts
    try:
        yield
    finally:
        if is_root:
            libc.setfsuid(0)
        folder.chmod(0o755)
        distributed.barrier()


def damaged_on_the_way(folder: str) -> dict[str, Any]:
    """On rank 1 the first file that is written loses a bit on the disk."""
    model, corrupted = start(folder), []

    def corrupt(path: Path) -> None:
        if model.world.rank == 1 and not corrupted:
            corrupted.append(path)
            content = bytearray(path.read_bytes())
            content[-7] ^= 1
            path.write_bytes(content)

    with listening() as log, changed_writing(lambda: None, corrupt):
        save_checkpoint(model, {"step": 1})
    return {"log": log, "tree": tree(f"{folder}/checkpoints")}


def wrong_copy(folder: str) -> dict[str, Any]:
    """The copy in memory is not what the model holds."""
    model = start(folder, replace(QUICK, attempts=1, train_unsaved=True))
    original = HostMemory.copy

    def copy(self: HostMemory, pieces: Any) -> Any:
        copies = original(self, pieces)
        copies[0].values.add_(1.0)
        return copies

    with mock.patch.object(HostMemory, "copy", copy), listening() as log, Saver(model) as saver:
        saver.save({"step": 1})
        ended(saver)
    return {"log": log, "tree": tree(f"{folder}/checkpoints"), "failures": saver.failures}


def still_writing(folder: str) -> dict[str, Any]:
    """The storage hangs on one rank when the next save is due."""
    model, gate = start(folder, replace(QUICK, patience_seconds=0.05, train_unsaved=True)), threading.Event()
    with changed_writing(lambda: model.world.rank == 0 or gate.wait(30)), listening() as log, Saver(model) as saver:
        saver.save({"step": 1})
        saver.save({"step": 2})
        failures = saver.failures
        gate.set()
        ended(saver)
        saver.save({"step": 3}, wait=True)
    return {"failures": failures, "log": log, "saved_step": saver.saved_step, "tree": tree(f"{folder}/checkpoints")}


def random_states(folder: str) -> dict[str, Any]:
    """The next draws of every generator, before and after a load; then under another layout."""

    def draws() -> list[Any]:
        from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

        with get_cuda_rng_tracker().fork():  # pyright: ignore[reportOptionalMemberAccess]
            device = torch.rand(2).tolist()
        return [random.random(), np.random.rand(), torch.rand(2).tolist(), device]

    model = start(folder)
    draws()
    save_checkpoint(model, {"step": 1})
    expected = draws()
    draws()
    again = start(folder)
    load_checkpoint(again, folder)
    found = draws()
    with listening() as log:
        load_checkpoint(start(folder, layout={"tensor": 2}), folder)
    return {"expected": expected, "found": found, "log": log}

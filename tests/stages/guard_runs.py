"""Runs of the guard's drills: `pretrain` on real token files, with a fault or without, and what is left of them."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

from megaphi.data.batch import BatchShape
from megaphi.data.order.mixture import Mixture, Source
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.guard.settings import Guard
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.reporting.events import read_events
from megaphi.engine.retention import Saving, checkpoint_name
from megaphi.engine.run_config import NumericPrecision, RunConfig
from megaphi.engine.run_sections import TrainingLength
from megaphi.model.megatron_config import Precision
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.pretrain import Pretrain
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.engine.layout_runs import TINY, contents, tiny_run
from tests.stages.guard_faults import GLOBAL_BATCH
from tests.stages.mixture_runs import pretrain_here

STEPS, LENGTH, VOCABULARY = 26, 64, 512
GUARD = Guard(window=16, deviations=12.0, most_skips=2, steps_before=3, replica_check_steps=4)


def write_tokens(prefix: Path, *, poisoned: bool = False) -> None:
    """8,000 tokens that a model learns to guess in a few steps; `poisoned`: and a document of random other ones."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    generator = random.Random(3)
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for number in range(40):
            first, stride = generator.randrange(48), 1 + number % 3
            writer.add_document([(first + stride * place) % 48 for place in range(200)])
            if poisoned and number == 20:
                writer.add_document([generator.randrange(48, VOCABULARY) for _ in range(2 * LENGTH)])
        writer.finish({"tokenizer": load_tokenizer(VOCABULARY).fingerprint, "vocabulary_size": VOCABULARY})


def guarded_run(
    folder: Path,
    tokens: Path,
    *,
    fault: str | None = None,
    layout: ParallelLayout | None = None,
    stop_after: int | None = None,
    every: int = 15,
    rate: float = 3e-3,
    steps: int = STEPS,
    parameters: Precision = "float32",
    **guard: Any,
) -> RunConfig:
    """A run with a fault of `guard_faults.py`."""
    objective = None if fault is None else f"{Path(__file__).parent / 'guard_faults.py'}:{fault}"
    mixture = Mixture(sources=(Source(name="text", weight=1.0, paths=(str(tokens),)),))
    return replace(
        tiny_run(folder=str(folder), layout=layout or ParallelLayout()),
        model=replace(TINY, layers=2, vocabulary=VOCABULARY),
        training=TrainingLength(steps=steps, stop_after=stop_after),
        batch=BatchShape(sequence_length=LENGTH, global_batch=GLOBAL_BATCH, micro_batch=2),
        task=Pretrain(mixture=mixture, objective=objective),
        optimizer=Optimizer(learning_rate=rate, warmup_steps=5),
        saving=Saving(every=every, keep_last=0, asynchronous=False),
        precision=NumericPrecision(parameters=parameters),
        guard=replace(GUARD, **guard),
    )


def guarded_here(*runs: RunConfig) -> list[dict[str, Any]]:
    """Train the runs one after the other on this rank; returns what `pretrain_here` does of each."""
    from megaphi.engine.training import loop

    os.environ["FAULT_NOTE"] = str(Path(runs[0].folder).with_name("fault"))
    with mock.patch.object(loop, "plot_losses"):  # a third of a second for every checkpoint
        return [pretrain_here(run) for run in runs]


def last_contents(run: RunConfig) -> dict[str, str]:
    """Digests of all tensors of the checkpoint of the last step: weights and moments."""
    return contents(Path(run.folder) / "checkpoints" / checkpoint_name(run.training.steps))


def state_of(run: RunConfig) -> dict[str, Any]:
    """The state in the checkpoint of the last step."""
    return json.loads(
        (Path(run.folder) / "checkpoints" / checkpoint_name(run.training.steps) / "state.json").read_text()
    )


def told(run: RunConfig, *kinds: str) -> list[dict[str, Any]]:
    """The run's events of these kinds; without any, all but `saved`."""
    return [
        event for event in read_events(run.folder) if event["kind"] in kinds or (not kinds and event["kind"] != "saved")
    ]


def seconds_to(event: dict[str, Any], run: RunConfig) -> float:
    """From the first fault to an event."""
    return time_of(event) - float(Path(run.folder).with_name("fault").read_text())


def time_of(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def now() -> float:
    return time.time()

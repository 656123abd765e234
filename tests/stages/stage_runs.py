"""Ranks of the tests of whole stages: a stage on real files, with what it wrote, said or refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megaphi.data.batch import BatchShape
from megaphi.engine.learning_rate import Optimizer
from megaphi.engine.retention import Saving
from megaphi.engine.run_config import RunConfig
from megaphi.engine.run_sections import TrainingLength
from megaphi.parallel.layout import ParallelLayout
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from tests.engine.layout_runs import tiny_run
from tests.stages.packed_runs import SHAPE

WORDS = "the sun rises in east and sets west while rivers run to sea".split()


def stage_here(run: RunConfig) -> dict[str, Any]:
    """Run the stage that the data asks for on this rank; returns the metrics, log lines, and an error's message."""
    from megaphi.conversion.open_weights import open_weights
    from megaphi.engine.reporting.metrics import read_metrics
    from megaphi.engine.run_config import check
    from megaphi.errors import InputError, ReportedElsewhere, RunFailed
    from megaphi.evaluation.during_training import open_evaluation
    from megaphi.log import logger
    from megaphi.parallel.rendezvous.place import detect
    from megaphi.stages.train import train

    lines: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        return True

    logger.addFilter(keep)
    message = None
    try:
        checked = check(run, world_size=detect().world_size)
        train(checked, open_weights=open_weights, open_evaluation=open_evaluation)
    except (InputError, ReportedElsewhere, RunFailed) as error:
        message = str(error)
    finally:
        logger.removeFilter(keep)
    metrics = Path(run.folder) / "metrics.jsonl"
    return {"records": read_metrics(metrics) if metrics.is_file() else [], "log": lines, "message": message}


def base(folder: Path, checkpoint: Path | None, **fields: Any) -> RunConfig:
    """Steps of four rows of 48 tokens."""
    run = tiny_run(
        folder=str(folder),
        model=SHAPE,
        batch=BatchShape(sequence_length=48, global_batch=4, micro_batch=2),
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=2, weight_decay=0.0),
        saving=Saving(every=100, keep_last=0),
    )
    start = None if checkpoint is None else str(checkpoint)
    run = replace(run, training=TrainingLength())
    return with_sections(run, initial_checkpoint=start, **fields)


def with_sections(run: RunConfig, **fields: Any) -> RunConfig:
    """The run with these fields, its own and of its sections `training`, `validation` and `start`."""
    for name in ("training", "validation", "start"):
        section = getattr(run, name)
        own = {field: fields.pop(field) for field in list(fields) if hasattr(section, field)}
        run = replace(run, **{name: replace(section, **own)})
    return replace(run, **fields)


def sft_run(folder: Path, data: Path, checkpoint: Path | None = None, **fields: Any) -> RunConfig:
    files = Finetune(paths=(str(data / "train.jsonl"),), validation_paths=(str(data / "held_out.jsonl"),))
    return replace(base(folder, checkpoint, **fields), task=files)


def dpo_run(folder: Path, data: Path, checkpoint: Path, *, reference: Path | None = None, **fields: Any) -> RunConfig:
    files = Prefer(
        paths=(str(data / "pairs.jsonl"),),
        validation_paths=(str(data / "pairs_held_out.jsonl"),),
        reference_folder=None if reference is None else str(reference),
    )
    return replace(base(folder, checkpoint, **fields), task=files)


def in_layout(run: RunConfig, **ways: Any) -> RunConfig:
    return replace(run, layout=ParallelLayout(**ways))


def write_conversations(path: Path, count: int, *, seed: int) -> None:
    """Short talks of one or two turns."""
    generator = np.random.default_rng(seed)

    def say(words: int) -> str:
        return " ".join(generator.choice(WORDS, size=words).tolist())

    lines = []
    for number in range(count):
        messages = [{"role": "user", "content": say(2)}, {"role": "assistant", "content": say(1 + number % 3)}]
        lines.append(json.dumps({"messages": messages}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_pairs(path: Path, count: int, *, seed: int) -> None:
    """Whole sides and single tokens, as token ids; a rule decides which side is better, so that it can be learnt."""
    generator = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        prompt = generator.integers(300, size=3 + number % 9).tolist()
        low, high = generator.integers(0, 9, size=4).tolist(), generator.integers(20, 29, size=6).tolist()
        sides = (low[:1], high[:1]) if number % 3 == 0 else (low[: 1 + number % 4], high[: 1 + number % 5])
        lines.append(json.dumps({"prompt": prompt, "accepted": sides[0], "rejected": sides[1]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")

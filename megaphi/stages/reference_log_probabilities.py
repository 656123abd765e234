"""Log-probabilities of the reference model: computed once, before training, then looked up.

Before its first update the model is its own reference model, so a second model is never loaded: training begins with a
pass over all pairs. Results are kept in parts, JSON files that appear whole, in a folder named by a hash of everything
that determines them: weights, architecture, precision, tokenizer, chat format. An interrupted pass continues after its
last part. A later run with the same reference model and pairs computes nothing; one bit of a weight makes another
folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megaphi.config import to_plain
from megaphi.data.packed.epochs import PackedEpochs
from megaphi.data.packed.pair_rows import Unit, length_of, pair_batch
from megaphi.data.packed.preference_pairs import PivotalGroup, PreferencePair
from megaphi.engine.model.training_model import TrainingModel
from megaphi.engine.model.weights_fingerprint import weights_fingerprint
from megaphi.engine.training.train_step import reading, run_schedule
from megaphi.errors import InputError
from megaphi.files import read_json, write_json
from megaphi.json_text import is_number
from megaphi.log import logger, progress_bar
from megaphi.model.architecture import HOW_IT_IS_COMPUTED
from megaphi.model.variants import USUAL
from megaphi.parallel.agreement import agree_on, agreed
from megaphi.parallel.exchange import gathered
from megaphi.stages.preference import ReferencePass

ROWS_PER_PART = 64
"""Rows that each replica computes for a part."""
CHAT_FORMAT = 1
"""Version of `tokenizer.chat_format`, raised when it renders the same conversation differently."""

Known = dict[str, tuple[float, float]]
"""Maps a pair's content hash to the log-probability of each side."""


def reference_model_key(model: TrainingModel, *, tokenizer_fingerprint: str) -> str:
    """Hex SHA-256 of everything that determines the reference model's log-probabilities. Collective."""
    architecture = to_plain(model.run.model)
    for how in HOW_IT_IS_COMPUTED:
        del architecture[how]
    if architecture["variant"] == USUAL:
        del architecture["variant"]  # keys are older than the field
    meaning = {
        "weights": weights_fingerprint(model),
        "architecture": architecture,
        "precision": to_plain(model.run.precision),
        "tokenizer": tokenizer_fingerprint,
        "chat_format": CHAT_FORMAT,
    }
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def fill_reference_log_probabilities(
    model: TrainingModel,
    pairs: Sequence[PreferencePair],
    units: Sequence[Unit],
    reference_N2: NDArray[np.float64],
    *,
    folder: Path,
    padding_token: int,
) -> int:
    """Fill in `reference_N2` for every pair; returns how many had to be computed. Collective.

    `units` hold every pair once; `folder` belongs to this reference model alone.
    """
    world = model.world
    hashes = [pair.content_hash for pair in pairs]
    known = agreed(world, lambda: read_known(folder))
    # A rank that does not see the others' parts would compute other pairs, and wait in other collectives.
    digest = hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()[:16]
    agree_on(world, {f"reference log-probabilities in {folder.name}": f"{len(known)} pairs, {digest}"})
    missing = [unit for unit in units if any(hashes[number] not in known for number in _numbers_of(unit))]
    if missing:
        logger.info("reference log-probabilities: %d of %d units to compute, into %s", len(missing), len(units), folder)
        for part in _computed(model, missing, reference_N2, padding_token=padding_token):
            new = {hashes[number]: values for number, values in part.items()}
            known |= new
            agreed(world, lambda new=new: _write_part(folder, new) if world.is_main else None)
    for number, name in enumerate(hashes):
        reference_N2[number] = known[name]
    return sum(len(_numbers_of(unit)) for unit in missing)


def _numbers_of(unit: Unit) -> Sequence[int]:
    return unit.members.tolist() if isinstance(unit, PivotalGroup) else (unit.number,)


def _computed(
    model: TrainingModel, units: Sequence[Unit], reference_N2: NDArray[np.float64], *, padding_token: int
) -> Iterator[dict[int, tuple[float, float]]]:
    """Yield the log-probabilities of each part by the pair's number, equal on every rank."""
    run, world = model.run, model.world
    rows = PackedEpochs([length_of(unit) for unit in units], capacity=run.batch.sequence_length, seed=0)
    make = pair_batch(units, reference_N2, capacity=run.batch.sequence_length, padding_token=padding_token)
    together = run.batch.micro_batch * world.layout.pipeline  # interleaved schedules need groups of that
    most = -(-ROWS_PER_PART // together) * together
    bar = progress_bar(total=rows.rows_per_epoch, unit="row", label="reference", visible=world.is_main)
    first = 0
    with bar, reading(model):
        while first < rows.rows_per_epoch:
            left = rows.rows_per_epoch - first
            each = min(most, -(-left // (world.replicas * together)) * together)
            numbers = first + np.arange(world.replicas * each).reshape(world.replicas, -1)[world.replica]
            batches = [
                make([rows.row(n) if n < rows.rows_per_epoch else [] for n in part.tolist()], part)
                for part in numbers.reshape(-1, run.batch.micro_batch)
            ]
            reports = run_schedule(model, batches, ReferencePass(), forward_only=True)
            found = [(report["numbers_Q"].tolist(), report["values_Q2"].tolist()) for report in reports]
            yield _shared(found)
            first += world.replicas * each
            bar.update(min(world.replicas * each, left))


_Found = list[tuple[list[int], list[list[float]]]]
"""Numbers of pairs and the values of each, batch by batch."""


def _shared(found: _Found) -> dict[int, tuple[float, float]]:
    """Exchange results, so that every rank has those of all."""
    everywhere: list[_Found] = gathered(found, _Found)
    return {
        number: (chosen, rejected)
        for rank in everywhere
        for numbers, values in rank
        for number, (chosen, rejected) in zip(numbers, values, strict=True)
    }


def read_known(folder: Path) -> Known:
    """Read all parts in a folder, which need not exist."""
    known: Known = {}
    for path in sorted(folder.glob("part_*.json")):
        content = read_json(path, what="reference log-probabilities")
        if not isinstance(content, dict):
            raise InputError(
                f"{path} does not hold reference log-probabilities: delete it, and they are computed again"
            )
        for name, values in content.items():
            if not (isinstance(values, list) and len(values) == 2 and all(map(_is_log_probability, values))):
                raise InputError(f"{path}: {name} has no two log-probabilities: delete the file")
            known[name] = (values[0], values[1])
    return known


def _is_log_probability(value: Any) -> bool:
    """Return whether a value is finite and not above zero, but by the rounding of a sum."""
    return is_number(value) and math.isfinite(value) and value < 1


def _write_part(folder: Path, known: Mapping[str, tuple[float, float]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"part_{len(list(folder.glob('part_*.json'))):05d}.json", dict(known))

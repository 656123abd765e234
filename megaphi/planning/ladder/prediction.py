"""A prediction that is written down before its target is trained, and what came of it.

prediction.json holds the interval, the time, a hash of the results that it was made from, and a hash of itself. Once
the target has been trained it is never written again: results that have changed since are refused.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megaphi.errors import InputError
from megaphi.files import read_object, write_json
from megaphi.planning.ladder.law import Interval, fit_law, predict, predict_rate
from megaphi.planning.ladder.plan import Ladder, LadderSettings, sweep_of
from megaphi.planning.small_runs import LOSS

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The target's loss as the sweep predicts it."""

    written: str
    """Time in UTC."""
    parameters: int
    tokens: int
    learning_rate: Interval
    loss: Interval
    """Mean loss of `runs` runs at `learning_rate.value`, with 95 % limits."""
    runs: int
    results_sha256: str
    """Hash of the sweep's results."""

    @property
    def sha256(self) -> str:
        """Hash of everything else."""
        return _digest(asdict(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Predicted against measured."""

    measured: tuple[float, ...]
    mean: float
    is_right: bool
    """True if the mean lies within the interval."""
    error: float
    """Measured minus predicted, in nats."""


def keep_prediction(settings: LadderSettings, ladder: Ladder, results: Mapping[str, Record]) -> Prediction:
    """Predict the target and write it down, or read what was written before.

    Raises:
        InputError: the target has been trained, and its prediction is missing or was made from other results.
    """
    path = settings.folder / "prediction.json"
    sweep = [record for record in results.values() if record["parameters"] != ladder.target.parameters]
    digest = _digest(sorted(({**record, "seconds": None} for record in sweep), key=lambda record: record["trial"]))
    before = _written(path)
    trained = any(record["parameters"] == ladder.target.parameters for record in results.values())
    is_same = before is not None and (before.results_sha256, before.parameters, before.tokens, before.runs) == (
        digest,
        ladder.target.parameters,
        ladder.target.tokens,
        settings.target_seeds,
    )
    if before is not None and is_same:
        return before
    if trained:
        raise InputError(
            f"{path}: its target is trained, and the prediction {'is missing' if before is None else 'is another one'}:"
            " a prediction comes before its measurement. Choose another --output, or the options it was begun with"
        )
    found = _predicted(settings, ladder, sweep, digest)
    write_json(path, {**asdict(found), "sha256": found.sha256})
    return found


def outcome_of(prediction: Prediction, targets: Sequence[Record]) -> Measurement | None:
    """None if the target was not trained."""
    if not targets:
        return None
    measured = tuple(float(record[LOSS]) for record in targets)
    mean = statistics.fmean(measured)
    return Measurement(
        measured=measured,
        mean=mean,
        is_right=prediction.loss.holds(mean),
        error=mean - prediction.loss.value,
    )


def _predicted(settings: LadderSettings, ladder: Ladder, records: Sequence[Record], digest: str) -> Prediction:
    sweep, parameters = sweep_of(ladder, records), ladder.target.parameters
    fit_law(sweep)
    return Prediction(
        written=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        parameters=parameters,
        tokens=ladder.target.tokens,
        learning_rate=predict_rate(sweep, parameters),
        loss=predict(sweep, parameters, runs=settings.target_seeds),
        runs=settings.target_seeds,
        results_sha256=digest,
    )


def _written(path: Path) -> Prediction | None:
    """The prediction of an earlier call. Raises InputError if the file was changed by hand."""
    if not path.exists():
        return None
    plain = read_object(path, what="prediction")
    try:
        digest, rate, loss = (plain.pop(name) for name in ("sha256", "learning_rate", "loss"))
        found = Prediction(**plain, learning_rate=Interval(**rate), loss=Interval(**loss))
    except (KeyError, TypeError):
        raise InputError(f"{path} is not the prediction of a ladder: choose another --output") from None
    if found.sha256 != digest:
        raise InputError(f"{path} was changed after it was written: its hash is another one")
    return found


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

"""Measured rows of `benchmarks/mfu.py` in place of assumed rates.

Each row has the seconds of a step that was measured on one device, and those that the model had predicted for it. Their
ratio is how much slower that device computes than assumed, so the rates of products, attention and memory are divided
by the median ratio. The network's rates stay assumed: a slice on one device does not use it.
"""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from megaphi.errors import InputError
from megaphi.foreign.files import read_text
from megaphi.planning.step.device import Device

ALIKE = (0.1, 10.0)
"""Ratios outside of which a row cannot be this device's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRatio:
    """Measured by predicted time of a device, and the rows behind it."""

    ratio: float
    rows: int
    commits: tuple[str, ...]

    def of(self, device: Device) -> Device:
        """The device with its rates as measured."""
        return replace(
            device,
            products=device.products / self.ratio,
            products_fp8=None if device.products_fp8 is None else device.products_fp8 / self.ratio,
            attention=device.attention / self.ratio,
            memory=device.memory / self.ratio,
        )


def read_calibration(path: Path, device: Device) -> MeasuredRatio | None:
    """The rows of a device in a file of `benchmarks/mfu.py`; None if it has none. Raises InputError."""
    rows = list(csv.DictReader(read_text(path).splitlines()))
    if rows and not {"device", "side", "seconds", "model_seconds", "commit"} <= set(rows[0]):
        raise InputError(
            f"{path} is no file of benchmarks/mfu.py: it lacks columns device, side, seconds, model_seconds"
        )
    model = device.name.split()[0]
    ours = [row for row in rows if row["side"] == "megaphi" and model in (row["device"] or "")]
    ratios = [ratio for row in ours if math.isfinite(ratio := _ratio(row, path))]
    if not ratios:
        return None
    return MeasuredRatio(
        ratio=statistics.median(ratios), rows=len(ratios), commits=tuple(dict.fromkeys(row["commit"] for row in ours))
    )


def _ratio(row: dict[str, str], path: Path) -> float:
    """Measured by predicted seconds; not a number where a case ran out of memory."""
    try:
        ratio = float(row["seconds"]) / float(row["model_seconds"])
    except (TypeError, ValueError, ZeroDivisionError):
        raise InputError(
            f"{path}: a row has seconds={row['seconds']} and model_seconds={row['model_seconds']}"
        ) from None
    if math.isfinite(ratio) and not ALIKE[0] <= ratio <= ALIKE[1]:
        raise InputError(f"{path}: a row was {ratio:.3g} times slower than predicted, which is no measurement of this")
    return ratio

"""loss.png: the loss of every step, the validation loss, and the learning rate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megaphi.files import whole_file


def plot_losses(
    records: Sequence[dict[str, Any]],
    path: Path,
    *,
    title: str,
    marks: dict[str, float],
    unit: str = "cross-entropy, nats per token",
) -> None:
    """Draw metrics.jsonl's records; `marks` are horizontal lines with a name, such as a baseline's loss."""
    from matplotlib.figure import Figure  # not pyplot, which belongs to the main thread

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    trained = [record for record in records if "loss" in record]
    steps = [record["step"] for record in trained]
    axes.plot(steps, [record["loss"] for record in trained], color="#7aa6d6", linewidth=0.9, label="training")
    validated = [record for record in records if "validation_loss" in record]
    if validated:
        axes.plot(
            [record["step"] for record in validated],
            [record["validation_loss"] for record in validated],
            color="#c0392b",
            marker="o",
            markersize=4,
            label="validation",
        )
    for name, value in marks.items():
        axes.axhline(value, color="#555555", linestyle="--", linewidth=1, label=f"{name} {value:.3f}")
    axes.set(xlabel="step", ylabel=unit, title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with whole_file(path) as file:
        file.write(buffer.getvalue())

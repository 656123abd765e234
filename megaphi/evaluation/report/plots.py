"""The plot of scores over checkpoints: a line with its 95 % intervals as a band for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megaphi.pivotal.methods.findings import Band

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
"""Okabe and Ito's, which colour-blind readers tell apart."""
MARKERS = "os^Dv<>P"


def checkpoint_plot(places: Sequence[float], scores: Mapping[str, Sequence[Band | None]], label: str) -> Any:
    """A figure: a line with its band for each task. A task that a checkpoint lacks leaves a gap.

    Args:
        places: steps or tokens, rising.
        label: of that axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for number, (task, bands) in enumerate(scores.items()):
        known = [(place, band) for place, band in zip(places, bands, strict=True) if band is not None]
        x = [place for place, _ in known]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        axes.plot(x, [100 * band.estimate for _, band in known], color=colour, marker=marker, label=_plain(task))
        low, high = [100 * band.low for _, band in known], [100 * band.high for _, band in known]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=_plain(label), ylabel="score, points of 100")
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=8)
    return figure


def _plain(text: str) -> str:
    """A text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")

"""mixture.png: above, the shares of the sources as stacked areas; below, how often each was read; both over tokens.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; the lines also differ in their dashes and
carry their last value, so that the picture survives a black-and-white printer. A share changes only between stages, so
the areas are steps and the lines straight within a stage.
"""

from __future__ import annotations

import io
import os
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from megaphi.data.order.report import MixtureReport, running_tokens
from megaphi.errors import InputError
from megaphi.files import whole_file

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
UNITS = ((10**12, "trillion tokens"), (10**9, "billion tokens"), (10**6, "million tokens"), (1, "tokens"))
SMALLEST_GAP = 0.05
"""Between two labels at the ends of lines, as a fraction of the axis."""


def plot_mixture(report: MixtureReport, path: str | os.PathLike[str], *, title: str, warn_epochs: float) -> None:
    """Draw a report into a PNG file; `warn_epochs` is drawn as a line. Raises InputError where it cannot be written."""
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"--plot {os.fspath(path)}: the plot is a PNG, name it so: {Path(path).with_suffix('.png')}")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    unit, unit_name = next(entry for entry in UNITS if report.tokens >= entry[0])
    figure, (shares, epochs) = pyplot.subplots(
        2, 1, figsize=(9, 7.5), dpi=120, layout="constrained", sharex=True, height_ratios=(2, 3)
    )
    edges = [0.0, *(tokens / unit for tokens in accumulate(stage.tokens for stage in report.stages))]
    _draw_shares(shares, report, edges)
    _draw_epochs(epochs, report, edges, warn_epochs=warn_epochs)
    for axes in (shares, epochs):
        for edge in edges[1:-1]:
            axes.axvline(edge, color="#333333", linewidth=0.8)
    epochs.set(xlabel=f"{unit_name} read", xlim=(0, edges[-1]))
    figure.suptitle(f"{title}: what it reads")
    handles, labels = shares.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    with whole_file(path) as file:
        file.write(buffer.getvalue())


def _draw_shares(axes: Any, report: MixtureReport, edges: list[float]) -> None:
    """Stacked areas from edge to edge: two points per stage, so that a share jumps where a stage begins."""
    ends = [end for pair in pairwise(edges) for end in pair]
    rows = []
    for source in report.sources:
        by_stage = [sum(read.share for read in stage.sources if read.name == source.name) for stage in report.stages]
        rows.append([100 * share for share in by_stage for _ in range(2)])
    colours = [_look(number)["color"] for number in range(len(rows))]
    axes.stackplot(
        ends, rows, labels=[source.name for source in report.sources], colors=colours, edgecolor="white", linewidth=0.6
    )
    axes.set(ylabel="share of the samples, %", ylim=(0, 100))
    if len(report.stages) > 1:
        for stage, (left, right) in zip(report.stages, pairwise(edges), strict=True):
            axes.text((left + right) / 2, 102, stage.name, ha="center", va="bottom", fontsize=9)


def _draw_epochs(axes: Any, report: MixtureReport, edges: list[float], *, warn_epochs: float) -> None:
    """One line per source whose size is known, from 0 to its epochs at the end of the run."""
    known = [(number, source) for number, source in enumerate(report.sources) if source.unique_tokens]
    finals = [source.epochs or 0.0 for _, source in known]
    highest = max(warn_epochs, *finals, 0.0) * 1.08
    axes.axhline(warn_epochs, color="#444444", linestyle=(0, (1, 2)), linewidth=1.4)
    axes.text(edges[-1] * 0.01, warn_epochs + highest * 0.01, f"warning at {warn_epochs:g} epochs", fontsize=9)
    for number, source in known:
        read = (0, *running_tokens(report.stages, source.name))
        axes.plot(edges, [tokens / (source.unique_tokens or 1) for tokens in read], linewidth=2, **_look(number))
    heights = _spread([final / highest for final in finals])
    for (number, source), final, height in zip(known, finals, heights, strict=True):
        axes.annotate(
            f"{source.name} {final:.1f}",
            xy=(1, final / highest),
            xytext=(1.03, height),
            xycoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": _look(number)["color"], "linewidth": 1.2},
        )
    unknown = [source.name for source in report.sources if not source.unique_tokens]
    if unknown:
        text = f"size not known: {', '.join(unknown)}"
        axes.text(0.99, 0.03, text, transform=axes.transAxes, ha="right", fontsize=9)
    axes.set(ylabel="epochs: times read so far", ylim=(0, highest))
    axes.grid(alpha=0.25)


def _look(number: int) -> dict[str, str]:
    """Colour and dashes of the number-th source: 28 differ."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": DASHES[number % len(DASHES)]}


def _spread(heights: list[float]) -> list[float]:
    """The heights moved up as little as keeps labels apart, in their own order."""
    moved = list(heights)
    for lower, upper in pairwise(sorted(range(len(heights)), key=heights.__getitem__)):
        moved[upper] = max(moved[upper], moved[lower] + SMALLEST_GAP)
    return moved
